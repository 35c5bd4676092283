// libnosigbus on a real mount.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <thread>

#include "lib/client/nosigbus.h"
#include "tests/mount/files.h"
#include "tests/mount/loads.h"
#include "tests/mount/process.h"
#include "tests/mount/user_place.h"
#include "tests/mount/view_mount.h"
#include "tests/mount/worker.h"
#include "tests/unit/mount_variable.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

UniqueFd memory(const std::string& content, unsigned flags = MFD_ALLOW_SEALING) {
    UniqueFd file(must(::memfd_create("test", flags | MFD_CLOEXEC), "memfd_create"));
    write_at(file.get(), 0, content);
    return file;
}

// The same file with other access.
UniqueFd reopen(const UniqueFd& file, int flags) {
    return open_file(fmt::format("/proc/self/fd/{}", file.get()), flags);
}

UniqueFd views_at(const std::string& mountpoint) {
    return UniqueFd(must(nosigbus_find(mountpoint.c_str()), "nosigbus_find"));
}

UniqueFd view_of(const UniqueFd& views, const UniqueFd& file, int flags = O_RDONLY) {
    return UniqueFd(must(nosigbus_open(views.get(), file.get(), flags), "nosigbus_open"));
}

std::string refusal(const UniqueFd& views, int fd, int flags) {
    const UniqueFd view(nosigbus_open(views.get(), fd, flags));
    return answer(view ? 0 : -1);
}

struct Unmap {
    void operator()(nosigbus_mapping* mapping) const { nosigbus_unmap(mapping); }
};
using Mapped = std::unique_ptr<nosigbus_mapping, Unmap>;

Mapped map(const UniqueFd& views, const UniqueFd& file, std::size_t length, int protection = PROT_READ,
           std::size_t offset = 0) {
    return Mapped(nosigbus_map(views.get(), file.get(), protection, static_cast<off_t>(offset), length));
}

std::string map_refusal(const UniqueFd& views, const UniqueFd& file, std::size_t length, int protection = PROT_READ,
                        std::size_t offset = 0) {
    const Mapped mapping = map(views, file, length, protection, offset);
    return answer(mapping ? 0 : -1);
}

// What can be loaded.
std::string bytes(const Mapped& mapping) {
    return load(static_cast<const std::byte*>(nosigbus_data(mapping.get())), nosigbus_length(mapping.get()));
}

// The same after the barrier.
std::string synced(const Mapped& mapping) {
    CHECK(answer(nosigbus_sync_mapping(mapping.get(), 0, 0)) == "0");
    return bytes(mapping);
}

auto descriptors() {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator());
}

// An empty /run, in this mount namespace only.
class EmptyRun {
  public:
    EmptyRun() { mount_tmpfs("/run"); }
    EmptyRun(const EmptyRun&) = delete;
    EmptyRun& operator=(const EmptyRun&) = delete;
    ~EmptyRun() { ::umount2("/run", MNT_DETACH); }
};

}  // namespace

TEST_SUITE_BEGIN("library");

TEST_CASE("the mount is the one that the caller names, or the environment, or /run/nosigbus") {
    const ViewMount mount({"max_size=1M"});
    const EmptyRun run;
    const UniqueFd file = memory("abc");
    const auto finds = [&](const char* mountpoint) {
        const UniqueFd views(nosigbus_find(mountpoint));
        if (!views) return answer(-1);
        CHECK(::fcntl(views.get(), F_GETFD) == FD_CLOEXEC);
        return read_all(view_of(views, file).get()).substr(0, 3);
    };
    const auto before = descriptors();
    CHECK(finds(mount.mountpoint().c_str()) == "abc");
    CHECK(finds(nullptr) == "ENOENT");
    {
        const MountVariable variable(mount.mountpoint());
        CHECK(finds(nullptr) == "abc");
        CHECK(finds("/run/nosigbus") == "ENOENT");
    }
    must(::mkdir("/run/nosigbus", 0755), "mkdir");
    CHECK(finds(nullptr) == "EOPNOTSUPP");
    must(::mount(mount.mountpoint().c_str(), "/run/nosigbus", nullptr, MS_BIND, nullptr), "mount --bind");
    CHECK(finds(nullptr) == "abc");
    {
        const MountVariable variable("");
        CHECK(finds(nullptr) == "abc");
    }
    {
        const MountVariable variable(mount.source());
        CHECK(finds(nullptr) == "EOPNOTSUPP");
    }
    CHECK(descriptors() == before);
}

TEST_CASE("a mount without views of descriptors is none, whatever its source has") {
    const ViewMount mount({"max_size=1M", "fd_views=no"});
    CHECK(answer(nosigbus_find(mount.mountpoint().c_str())) == "EOPNOTSUPP");
    std::filesystem::create_directories(mount.raw(".nosigbus/fd"));
    CHECK(answer(nosigbus_find(mount.mountpoint().c_str())) == "EOPNOTSUPP");
    for (int fd = 0; fd < 64; ++fd) make_file(mount.raw(fmt::format(".nosigbus/fd/{}", fd)), "abc");
    CHECK(answer(nosigbus_find(mount.mountpoint().c_str())) == "EOPNOTSUPP");
}

TEST_CASE("nor is a directory in one") {
    const ViewMount mount({"max_size=1M"});
    std::filesystem::create_directories(mount.raw("directory/.nosigbus/fd"));
    CHECK(answer(nosigbus_find(mount.view("directory").c_str())) == "EOPNOTSUPP");
}

TEST_CASE("a view of a file without a name, whichever way it has none") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd views = views_at(mount.mountpoint());
    UniqueFd unlinked = make_file(mount.root() + "/file", pattern(0, 5000));
    std::filesystem::remove(mount.root() + "/file");
    UniqueFd temporary = open_file(mount.plain(), O_TMPFILE | O_RDWR);
    write_at(temporary.get(), 0, pattern(0, 5000));
    for (const UniqueFd* file : {&unlinked, &temporary}) {
        const Mapped mapping = map(views, *file, MiB);
        REQUIRE(mapping);
        CHECK(difference(bytes(mapping), padded(pattern(0, 5000), MiB)) == "");
        resize(file->get(), 10);
        CHECK(difference(synced(mapping), padded(pattern(0, 10), MiB)) == "");
        const UniqueFd view = view_of(views, *file, O_RDWR);
        CHECK(nosigbus_real_size(view.get()) == 10);
        CHECK(nosigbus_view_size(view.get()) == MiB);
        write_at(view.get(), 4, "written");
        CHECK(read_all(file->get()).substr(4, 7) == "written");
    }
}

TEST_CASE("a view allows what its descriptor does, for whatever user") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd views = views_at(mount.mountpoint());
    const UniqueFd file = memory(pattern(0, 5000));
    must(::fchmod(file.get(), 0600), "fchmod");
    const UniqueFd reader = reopen(file, O_RDONLY);
    const UniqueFd writer = reopen(file, O_WRONLY);
    const auto check = [&] {
        std::string all;
        for (const UniqueFd* one : {&file, &reader, &writer}) {
            for (const int flags : {O_RDONLY, O_WRONLY, O_RDWR}) all += refusal(views, one->get(), flags) + " ";
        }
        return all;
    };
    const std::string wanted = "0 0 0 0 EACCES EACCES EACCES 0 EACCES ";
    CHECK(check() == wanted);
    CHECK(as_user(nobody, check) == wanted);
    CHECK(map_refusal(views, reader, page, PROT_READ | PROT_WRITE) == "EACCES");
    CHECK(map_refusal(views, writer, page) == "EACCES");
    const Mapped mapping = map(views, reader, page);
    REQUIRE(mapping);
    CHECK(answer(::mprotect(nosigbus_data(mapping.get()), page, PROT_READ | PROT_WRITE)) == "EACCES");
}

TEST_CASE("what is no regular file, or cannot have a view, is refused") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd views = views_at(mount.mountpoint());
    int ends[2];
    must(::pipe2(ends, O_CLOEXEC), "pipe2");
    const UniqueFd reading(ends[0]);
    const UniqueFd writing(ends[1]);
    CHECK(refusal(views, reading.get(), O_RDONLY) == "EOPNOTSUPP");
    CHECK(refusal(views, views.get(), O_RDONLY) == "EOPNOTSUPP");
    CHECK(refusal(views, open_file("/dev/null", O_RDWR).get(), O_RDONLY) == "EOPNOTSUPP");
    CHECK(refusal(views, -1, O_RDONLY) == "EBADF");
    CHECK(refusal(views, 4000, O_RDONLY) == "EBADF");
    const UniqueFd huge(::memfd_create("huge", MFD_HUGETLB | MFD_CLOEXEC));
    if (huge) CHECK(refusal(views, huge.get(), O_RDONLY) == "EOPNOTSUPP");
    const UniqueFd secret(static_cast<int>(::syscall(SYS_memfd_secret, O_CLOEXEC)));
    if (secret) CHECK(refusal(views, secret.get(), O_RDONLY) == "EOPNOTSUPP");
}

TEST_CASE("of a view there is another descriptor") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd views = views_at(mount.mountpoint());
    const UniqueFd file = memory(pattern(0, 5000));
    make_file(mount.raw("file"), pattern(0, 5000));
    const UniqueFd view = view_of(views, file);
    const UniqueFd named = open_file(mount.view("file"), O_RDONLY);
    for (const UniqueFd* one : {&view, &named}) {
        const UniqueFd another = view_of(views, *one);
        CHECK(status(another.get()).st_ino == status(one->get()).st_ino);
        CHECK(refusal(views, one->get(), O_RDWR) == "EACCES");
        const Mapped mapping = map(views, *one, MiB);
        REQUIRE(mapping);
        CHECK(difference(bytes(mapping), padded(pattern(0, 5000), MiB)) == "");
        CHECK(nosigbus_real_size(one->get()) == 5000);
        CHECK(nosigbus_view_size(one->get()) == MiB);
    }
}

TEST_CASE("the sizes are the file's and the view's, however stat answers") {
    for (const std::string stat : {"stat=view", "stat=real"}) {
        CAPTURE(stat);
        const ViewMount mount({"max_size=1M", stat});
        const UniqueFd views = views_at(mount.mountpoint());
        const UniqueFd file = memory(std::string(10, 'x'));
        const UniqueFd view = view_of(views, file);
        const auto sizes = [&] {
            return fmt::format("{} {}", nosigbus_real_size(view.get()), nosigbus_view_size(view.get()));
        };
        CHECK(sizes() == "10 1048576");
        resize(file.get(), 3 * MiB + 1);
        CHECK(sizes() == "3145729 4194304");
        resize(file.get(), 0);
        CHECK(sizes() == "0 4194304");
    }
}

TEST_CASE("a mapping shows a memfd, zeros where it is truncated, and data where it grows") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd views = views_at(mount.mountpoint());
    UniqueFd file = memory(pattern(0, 10 * page));
    const Mapped mapping = map(views, file, 8 * page, PROT_READ | PROT_WRITE, 2 * page);
    REQUIRE(mapping);
    const int view = nosigbus_view(mapping.get());
    CHECK(view >= 0);
    CHECK(::fcntl(view, F_GETFD) == FD_CLOEXEC);
    CHECK(nosigbus_length(mapping.get()) == 8 * page);
    CHECK(difference(bytes(mapping), pattern(2 * page, 8 * page)) == "");
    resize(file.get(), 5 * page + 7);
    // Unasked: a truncation of a memfd raises an event.
    CHECK(eventually([&] { return bytes(mapping) == padded(pattern(2 * page, 3 * page + 7), 8 * page); }));
    CHECK(nosigbus_real_size(view) == static_cast<off_t>(5 * page + 7));
    resize(file.get(), 0);
    CHECK(difference(synced(mapping), std::string(8 * page, '\0')) == "");
    write_at(file.get(), 0, pattern(0, 9 * page, 1));
    CHECK(difference(synced(mapping), padded(pattern(2 * page, 7 * page, 1), 8 * page)) == "");
    // A store reaches the file when it is written back, which is not what the barrier is for.
    CHECK(store(static_cast<std::byte*>(nosigbus_data(mapping.get())) + 3, "stored") == 6);
    CHECK(synced(mapping).substr(3, 6) == "stored");
    CHECK(answer(::fsync(view)) == "0");
    CHECK(read_all(file.get()).substr(2 * page + 3, 6) == "stored");
    // It needs the descriptor no more.
    file.reset();
    CHECK(synced(mapping).substr(3, 6) == "stored");
}

TEST_CASE("the barrier for a range shows what left no event") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd views = views_at(mount.mountpoint());
    const UniqueFd file = memory(pattern(0, 16 * page));
    const Mapped mapping = map(views, file, 12 * page, PROT_READ, 4 * page);
    REQUIRE(mapping);
    CHECK(difference(bytes(mapping), pattern(4 * page, 12 * page)) == "");
    const auto* const loads = static_cast<const std::byte*>(nosigbus_data(mapping.get()));
    auto* const raw = static_cast<std::byte*>(
        must(::mmap(nullptr, 16 * page, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0), "mmap"));
    for (unsigned salt = 1; salt <= 20; ++salt) {
        const std::size_t at = salt % 12 * page;  // in the mapping
        const std::string news = pattern(0, page, salt);
        store(raw + 4 * page + at, news);
        CHECK(answer(nosigbus_sync_mapping(mapping.get(), at, page)) == "0");
        CHECK(difference(load(loads + at, page), news) == "");
        punch(file.get(), 4 * page + at, page);
        CHECK(answer(nosigbus_sync(nosigbus_view(mapping.get()), static_cast<off_t>(4 * page + at + 1), 1)) == "0");
        CHECK(difference(load(loads + at, page), std::string(page, '\0')) == "");
    }
    ::munmap(raw, 16 * page);
    CHECK(answer(nosigbus_sync_mapping(mapping.get(), 0, 13 * page)) == "EINVAL");
    // Ranges behind the file, and behind the view.
    CHECK(answer(nosigbus_sync(nosigbus_view(mapping.get()), 64 * static_cast<off_t>(MiB), 0)) == "0");
    CHECK(answer(nosigbus_sync(nosigbus_view(mapping.get()), 0, INT64_MAX)) == "0");
}

TEST_CASE("what does not end within the view is not mapped, until the file has grown") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd views = views_at(mount.mountpoint());
    const UniqueFd file = memory("abc");
    const auto before = descriptors();
    CHECK(map_refusal(views, file, MiB + 1) == "EOVERFLOW");
    CHECK(map_refusal(views, file, MiB, PROT_READ, page) == "EOVERFLOW");
    CHECK(map_refusal(views, file, page, PROT_READ, 64 * MiB) == "EOVERFLOW");
    CHECK(descriptors() == before);
    CHECK(map_refusal(views, file, page, PROT_READ, MiB - page) == "0");
    resize(file.get(), MiB + 1);
    const Mapped mapping = map(views, file, 2 * MiB);
    REQUIRE(mapping);
    resize(file.get(), 1);
    CHECK(difference(synced(mapping), padded("a", 2 * MiB)) == "");
    CHECK(nosigbus_view_size(nosigbus_view(mapping.get())) == 2 * MiB);
}

TEST_CASE("a file that is sealed against shrinking and long enough is mapped plainly, all others as views") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd views = views_at(mount.mountpoint());
    const UniqueFd file = memory(pattern(0, 4 * page));
    const auto is_plain = [&](std::size_t length) {
        const Mapped mapping = map(views, file, length);
        REQUIRE(mapping);
        CHECK(difference(bytes(mapping), padded(pattern(0, 4 * page).substr(0, length), length)) == "");
        return nosigbus_view(mapping.get()) == -1;
    };
    CHECK_FALSE(is_plain(4 * page));
    must(::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK), "F_ADD_SEALS");
    CHECK(is_plain(4 * page));
    CHECK_FALSE(is_plain(4 * page + 1));
    const Mapped mapping = map(views, file, 4 * page);
    punch(file.get(), 0, 2 * page);
    CHECK(difference(synced(mapping), std::string(2 * page, '\0') + pattern(2 * page, 2 * page)) == "");
}

TEST_CASE("a file that is sealed against stores is not mapped for them") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd views = views_at(mount.mountpoint());
    for (const int seal : {F_SEAL_WRITE, F_SEAL_FUTURE_WRITE}) {
        const UniqueFd file = memory(pattern(0, page));
        must(::fcntl(file.get(), F_ADD_SEALS, seal), "F_ADD_SEALS");
        CHECK(map_refusal(views, file, page, PROT_READ | PROT_WRITE) == "EPERM");
        const Mapped mapping = map(views, file, page);
        REQUIRE(mapping);
        CHECK(difference(bytes(mapping), pattern(0, page)) == "");
    }
}

TEST_CASE("on an ordinary user's mount, whoever the server may look into finds views") {
    const UserPlace place;
    place.mount();
    const auto maps = [&] {
        const UniqueFd views(nosigbus_find(place.mountpoint().c_str()));
        if (!views) return answer(-1);
        const UniqueFd file = memory(pattern(0, 5 * page));
        const Mapped mapping = map(views, file, 8 * page);
        if (!mapping) return answer(-1);
        resize(file.get(), 10);
        if (nosigbus_sync_mapping(mapping.get(), 0, 0) != 0) return answer(-1);
        return difference(bytes(mapping), padded(pattern(0, 10), 8 * page));
    };
    CHECK(as_user(nobody, [&] {
              must(::prctl(PR_SET_DUMPABLE, 1), "prctl");
              return maps();
          }) == "");
    CHECK(as_user(nobody, [&] {
              must(::prctl(PR_SET_DUMPABLE, 0), "prctl");
              return maps();
          }) == "EACCES");
    place.unmount();
}

TEST_CASE("any number of threads, while the server dies") {
    const ViewMount mount({"max_size=1M"});
    constexpr int threads = 8;
    constexpr int rounds = 30;
    const auto before = descriptors();
    std::atomic<int> wrong = 0;
    std::atomic<int> running = threads;
    const auto work = [&](unsigned salt) {
        const UniqueFd views(nosigbus_find(mount.mountpoint().c_str()));
        for (unsigned round = 0; round < rounds; ++round) {
            const UniqueFd file = memory(pattern(0, 20 * page, salt + round));
            const Mapped mapping = map(views, file, 24 * page);
            if (!mapping || bytes(mapping) != padded(pattern(0, 20 * page, salt + round), 24 * page)) {
                ++wrong;
                continue;
            }
            resize(file.get(), round * 100);
            if (nosigbus_sync_mapping(mapping.get(), 0, 0) != 0) ++wrong;
            if (nosigbus_real_size(nosigbus_view(mapping.get())) != static_cast<off_t>(round) * 100) ++wrong;
            if (bytes(mapping) != padded(pattern(0, round * 100, salt + round), 24 * page)) ++wrong;
        }
        --running;
    };
    {
        std::vector<std::jthread> workers;
        for (unsigned i = 0; i < threads; ++i) workers.emplace_back(work, i * 1000);
        for (int kills = 0; kills < 3 && running > 0; ++kills) kill_worker(mount.pid());
    }
    CHECK(wrong == 0);
    CHECK(descriptors() == before);
}

TEST_CASE("the example in Python") {
    const ViewMount mount({"max_size=1M"});
    const Run finished =
        run({"python3", "-B", NOSIGBUS_EXAMPLES "/views.py"},
            {.environment = {"NOSIGBUS_MOUNT=" + mount.mountpoint(), "LD_LIBRARY_PATH=" NOSIGBUS_LIBRARIES}});
    CHECK_MESSAGE(finished.ending == "exit 0", finished.errors);
    CHECK(finished.output ==
          "before: b'hello'\n"
          "truncated to 0 bytes: b'\\x00\\x00\\x00\\x00\\x00'\n"
          "of 5000 bytes loaded, 5000 are zero\n");
    const Run nowhere = run({"python3", "-B", NOSIGBUS_EXAMPLES "/views.py"},
                            {.environment = {"NOSIGBUS_MOUNT=/proc", "LD_LIBRARY_PATH=" NOSIGBUS_LIBRARIES}});
    CHECK(nowhere.ending == "exit 1");
    CHECK(nowhere.errors.find("nosigbus_find: Operation not supported") != std::string::npos);
}

TEST_SUITE_END();
