#include "tests/mount/kernel.h"

#include <fmt/format.h>
#include <linux/fuse.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <sys/xattr.h>

#include <array>
#include <cstdlib>
#include <cstring>

#include "tests/mount/directories.h"
#include "tests/mount/files.h"

namespace nosigbus::test {

namespace {

// The bit of fuse_init_in.flags2; Debian 12 has the header of Linux 6.1.
constexpr std::uint32_t direct_io_allow_mmap = std::uint32_t{1} << (36U - 32U);
constexpr std::uint32_t passthrough = std::uint32_t{1} << (37U - 32U);

// What the kernel offers to a server, in the first request after a mount. No server answers.
fuse_init_in offered() {
    const std::string directory = make_temporary_directory();
    UniqueFd device = open_file("/dev/fuse", O_RDWR);
    const std::string options = fmt::format("fd={},rootmode=40000,user_id=0,group_id=0", device.get());
    must(::mount("probe", directory.c_str(), "fuse", 0, options.c_str()), "mount fuse");
    std::array<char, FUSE_MIN_READ_BUFFER> request{};
    const auto length = ::read(device.get(), request.data(), request.size());
    device.reset();
    take_down(directory);
    fuse_init_in init{};
    if (length > static_cast<ssize_t>(sizeof(fuse_in_header))) {
        const auto body = static_cast<std::size_t>(length) - sizeof(fuse_in_header);
        std::memcpy(&init, request.data() + sizeof(fuse_in_header), std::min(body, sizeof init));
    }
    return init;
}

const fuse_init_in& offer() {
    static const fuse_init_in init = offered();
    return init;
}

struct TmpfsFeatures {
    bool user_attributes = false;
    bool direct_opens = false;
};

const TmpfsFeatures& tmpfs() {
    static const TmpfsFeatures features = [] {
        const Directories directories;
        const std::string path = directories.plain() + "/file";
        make_file(path);
        return TmpfsFeatures{
            .user_attributes = ::setxattr(path.c_str(), "user.one", "1", 1, 0) == 0,
            .direct_opens = UniqueFd(::open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC)).get() >= 0,
        };
    }();
    return features;
}

}  // namespace

bool kernel_maps_direct_files() {
    return (offer().flags & FUSE_INIT_EXT) != 0 && (offer().flags2 & direct_io_allow_mmap) != 0;
}

bool kernel_passes_through(const char* what) {
    const bool does = (offer().flags & FUSE_INIT_EXT) != 0 && (offer().flags2 & passthrough) != 0;
    if (!does) fmt::print("left out, without FUSE_PASSTHROUGH: {}\n", what);
    return does;
}

void use_a_cat_that_stops() {
    const std::string directory = make_temporary_directory();
    write_at(
        open_file(directory + "/cat", O_WRONLY | O_CREAT, 0755).get(), 0,
        "#!/bin/sh\n[ $# -gt 0 ] || exec /bin/cat\nfor each do head -c \"$(stat -Lc %s \"$each\")\" \"$each\"; done\n");
    const char* path = std::getenv("PATH");
    ::setenv("PATH", fmt::format("{}:{}", directory, path != nullptr ? path : "/usr/bin:/bin").c_str(), 1);
}

bool kernel_writes_in_place() {
    constexpr int no_append = 0x20;  // linux/fs.h of Linux 6.9
    const UniqueFd file(must(::memfd_create("written", MFD_CLOEXEC), "memfd_create"));
    char byte = 0;
    const iovec part = {.iov_base = &byte, .iov_len = 1};
    return ::pwritev2(file.get(), &part, 1, 0, no_append) == 1;
}

bool munmap_waits_for_write_back() {
    return offer().minor >= 44;
}

bool kernel_tells_births() {
    return offer().minor >= 39;
}

bool tmpfs_has_user_attributes() {
    return tmpfs().user_attributes;
}

bool tmpfs_opens_directly() {
    return tmpfs().direct_opens;
}

bool reads_end(const char* what) {
    if (!kernel_maps_direct_files()) fmt::print("left out, without FUSE_DIRECT_IO_ALLOW_MMAP: {}\n", what);
    return kernel_maps_direct_files();
}

}  // namespace nosigbus::test
