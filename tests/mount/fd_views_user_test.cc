// Views of descriptors on an ordinary user's own mount: of what that user may look into.
#include <doctest/doctest.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include <csignal>
#include <functional>

#include "tests/mount/fd_views.h"
#include "tests/mount/mapping.h"
#include "tests/mount/user_place.h"
#include "tests/mount/worker.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

// As a process that the user started: who became the user in the midst of things is not dumpable, see
// setresuid(2) and PR_SET_DUMPABLE.
std::string as_users_process(const std::function<std::string()>& question) {
    return as_user(nobody, [&] {
        must(::prctl(PR_SET_DUMPABLE, 1), "prctl");
        return question();
    });
}

void check_view(Wrong& wrong, const Directories& mount, const UniqueFd& file, const std::string& what) {
    const UniqueFd reader = fd_view(mount, file.get());
    const UniqueFd writer = fd_view(mount, file.get(), O_RDWR);
    wrong.unless(shows(reader.get(), pattern(0, 5 * page)), what + ": content");
    const Mapping mapping(reader.get(), MiB);
    write_at(writer.get(), 3, "written");
    wrong.unless_same(read_all(file.get()).substr(3, 7), "written", what + ": write");
    const Mapping raw(file.get(), page, PROT_READ | PROT_WRITE);
    wrong.unless(raw.store(50, "stored") == 6 && ::fsync(reader.get()) == 0, what + ": store");
    wrong.unless_same(mapping.bytes(50, 6), "stored", what + ": barrier");
    resize(file.get(), 10);
    wrong.unless(mapping.touch() == MiB / page, what + ": a load has faulted");
    wrong.unless(eventually([&] { return mapping.bytes() == padded(read_all(file.get()), MiB); }), what + ": shrunk");
    wrong.unless(sizes_of(reader.get()).real_size == 10, what + ": size");
}

}  // namespace

TEST_SUITE_BEGIN("fd-views-user");

TEST_CASE("on an ordinary user's mount its memfds and unlinked files have views, with their descriptors' rights") {
    const UserPlace place;
    place.mount();
    CHECK(as_users_process([&] {
              Wrong wrong;
              check_view(wrong, place, memfd(pattern(0, 5 * page)), "memfd");
              check_view(wrong, place, unlinked_file(place.source(), pattern(0, 5 * page)), "unlinked");
              check_view(wrong, place, tmpfile(place.source(), pattern(0, 5 * page)), "tmpfile");
              const UniqueFd file = memfd("abc");
              const auto ask = [&](int rights, int flags) {
                  return opened(fd_name(place, same_file(file.get(), rights).get()), flags);
              };
              wrong.unless_same(ask(O_RDONLY, O_RDONLY), "0", "O_RDONLY as it is");
              wrong.unless_same(ask(O_RDONLY, O_RDWR), "EACCES", "O_RDONLY for both");
              wrong.unless_same(ask(O_RDONLY, O_WRONLY), "EACCES", "O_RDONLY for writing");
              wrong.unless_same(ask(O_RDONLY, O_RDONLY | O_TRUNC), "EACCES", "O_RDONLY to truncate");
              wrong.unless_same(ask(O_WRONLY, O_WRONLY), "0", "O_WRONLY as it is");
              wrong.unless_same(ask(O_WRONLY, O_RDONLY), "EACCES", "O_WRONLY for reading");
              wrong.unless_same(ask(O_WRONLY, O_RDWR), "EACCES", "O_WRONLY for both");
              wrong.unless_same(ask(O_PATH, O_RDONLY), "EACCES", "O_PATH");
              wrong.unless_same(opened(fd_name(place, 987), O_RDONLY), "ENOENT", "none");
              return wrong.text();
          }) == "");
    place.unmount();
}

TEST_CASE("on an ordinary user's mount a descriptor gives no more than it is, of a file of root's either") {
    const UserPlace place;
    place.mount();
    const UniqueFd file = unlinked_file(place.plain(), "secret");
    must(::fchmod(file.get(), 0600), "fchmod");
    const UniqueFd passed = same_file(file.get(), O_RDONLY);
    // The server may not open what its user may not.
    const std::string answers = as_users_process([&] {
        return opened(fd_name(place, passed.get()), O_RDONLY) + " " + opened(fd_name(place, passed.get()), O_RDWR) +
               " " + opened(fd_name(place, file.get()), O_RDWR);
    });
    CHECK_MESSAGE((answers == "EACCES EACCES EACCES" || answers == "0 EACCES 0"), answers);
    // Nor look into a process that nobody may look into.
    const UniqueFd own = memfd("abc");
    must(::fchmod(own.get(), 0666), "fchmod");
    CHECK(as_user(nobody, [&] {
              must(::prctl(PR_SET_DUMPABLE, 0), "prctl");
              return opened(fd_name(place, own.get()), O_RDONLY);
          }) == "EACCES");
    CHECK(as_users_process([&] { return opened(fd_name(place, own.get()), O_RDONLY); }) == "0");
    CHECK(read_all(file.get()) == "secret");
    place.unmount();
}

TEST_CASE("an ordinary user's views of descriptors survive the worker, the supervisor and a reload") {
    const UserPlace place;
    place.mount();
    const pid_t first = place.supervisor();
    CHECK(as_users_process([&] {
              Wrong wrong;
              UniqueFd file = memfd(pattern(0, 8 * page));
              const UniqueFd view = fd_view(place, file.get());
              const Mapping mapping(view.get(), MiB);
              unsigned round = 0;
              const auto check = [&](const std::string& when) {
                  ::posix_fadvise(view.get(), 0, 0, POSIX_FADV_DONTNEED);
                  write_at(file.get(), page, pattern(0, page, ++round));
                  wrong.unless(::fsync(view.get()) == 0, when + ": barrier");
                  wrong.unless(mapping.bytes() == padded(read_all(file.get()), MiB), when + ": content");
                  wrong.unless_same(opened(fd_name(place, file.get()), O_RDWR), "0", when + ": open");
              };
              const auto supervisor = [&] { return supervisor_of(place.mountpoint()); };
              check("first");
              wrong.unless(kill_worker(first) > 0, "no worker");
              check("after the worker's death");
              ::kill(first, SIGKILL);
              wrong.unless(eventually([&] { return supervisor() != first; }), "no other supervisor");
              check("after the supervisor's death");
              const Run reloaded = run({place.program(), "--reload", place.mountpoint()});
              wrong.unless_same(reloaded.ending + reloaded.errors, "exit 0", "reload");
              check("after the reload");
              return wrong.text();
          }) == "");
    CHECK(UserPlace::run({"fusermount3", "-u", place.mountpoint()}).ending == "exit 0");
    const std::string endings = wait_for_adopted();
    CHECK_MESSAGE(endings.find("still running") == std::string::npos, endings);
}

TEST_SUITE_END();
