# nosigbus_mount_test
add_executable(nosigbus_mount_test
  main.cc
  guard.cc mount_table.cc process.cc kernel.cc files.cc loads.cc directories.cc view_mount.cc changes.cc matrix.cc parity.cc trials.cc
  daemon_usage.cc aio_write.cc io_uring_read.cc counters.cc footprint.cc installed.cc user_place.cc run_place.cc worker.cc tested_build.cc
  storm_clients.cc storm_readers.cc storm_writers.cc storm_names.cc
  raw_test.cc size_test.cc stat_test.cc read_test.cc mapping_test.cc change_test.cc change_real_test.cc change_cached_test.cc change_cache_test.cc write_test.cc write_race_test.cc
  barrier_test.cc barrier_race_test.cc shadow_test.cc shadow_writers_test.cc
  mirror_test.cc mirror_directories_test.cc mirror_access_test.cc
  posix_modes_test.cc posix_paths_test.cc posix_names_test.cc posix_open_test.cc posix_sizes_test.cc
  posix_times_test.cc posix_xattr_test.cc posix_flags_test.cc posix_io_test.cc posix_capabilities_test.cc posix_full_test.cc
  posix_events_test.cc
  fd_views.cc silent_server.cc
  fd_views_test.cc fd_views_refused_test.cc fd_views_rights_test.cc fd_views_callers_test.cc fd_views_names_test.cc fd_views_changes_test.cc
  fd_views_life_test.cc fd_views_user_test.cc fd_views_hostile_test.cc fd_views_storm_test.cc
  fsx_test.cc names_test.cc locks_test.cc exec_test.cc
  mounting_test.cc mount8_test.cc ending_test.cc supervisor_test.cc confinement_test.cc reload_test.cc notify_test.cc bad_input_test.cc
  full_test.cc limits_test.cc user_test.cc silent_test.cc error_test.cc hostile_test.cc stress_test.cc ring_test.cc storm_test.cc stat_storm_test.cc kill_storm_test.cc programs_test.cc
  library_test.cc library_installed_test.cc stat_command_test.cc run_test.cc run_user_test.cc run_programs_test.cc
  faults.cc fault_operations.cc fault_file_operations.cc
  fault_operations_test.cc fault_refresh_test.cc fault_start_test.cc fault_truncation_test.cc fault_hang_test.cc fault_shadow_test.cc)
target_link_libraries(nosigbus_mount_test PRIVATE nosigbus_plain $<TARGET_FILE:nosigbus_static> doctest::doctest fmt::fmt Threads::Threads ${AIO_LIBRARY})
build_tests_fast(nosigbus_mount_test)
target_compile_definitions(nosigbus_mount_test PRIVATE
  NOSIGBUS_BUILD="${CMAKE_BINARY_DIR}"
  NOSIGBUS_README="${CMAKE_SOURCE_DIR}/README.md"
  NOSIGBUS_VERSION="${PROJECT_VERSION}")
set_source_files_properties(library_test.cc library_installed_test.cc PROPERTIES
  SKIP_PRECOMPILE_HEADERS ON  # made without these
  COMPILE_DEFINITIONS "NOSIGBUS_EXAMPLES=\"${CMAKE_SOURCE_DIR}/docs/examples\";NOSIGBUS_LIBRARIES=\"$<TARGET_FILE_DIR:nosigbus_shared>\";NOSIGBUS_LIBDIR=\"${CMAKE_INSTALL_LIBDIR}\"")
if(NOSIGBUS_SANITIZE)
  target_compile_options(nosigbus_mount_test PRIVATE -O0 -g0)
endif()
add_dependencies(nosigbus_mount_test nosigbus nosigbus_of_another_version nosigbus_shared)
