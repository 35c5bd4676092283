// What a confined process may not do any more, and what it still can. Tried in processes of their own.
#include "fs/confinement.h"

#include <doctest/doctest.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>

#include "lib/log.h"
#include "tests/unit/workers.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

#ifdef SYS_socketcall  // its arguments lie in memory, where no filter sees them
constexpr bool sees_kind_of_socket = false;
#else
constexpr bool sees_kind_of_socket = true;
#endif

// Sanitizers need more.
#ifdef NOSIGBUS_SANITIZED
constexpr bool is_sanitized = true;
#else
constexpr bool is_sanitized = false;
#endif

void must_hold(bool holds, const std::string& what) {
    if (!holds) throw std::runtime_error(what);
}

// Of this thread: /proc/thread-self/status.
std::string status_line(const std::string& name) {
    std::ifstream file("/proc/thread-self/status");
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with(name + ":\t")) return line.substr(name.size() + 2);
    }
    return "none";
}

std::string mount_namespace() {
    return std::filesystem::read_symlink("/proc/thread-self/ns/mnt").string();
}

// Refuses this process, and those it starts, one system call.
void refuse_call(unsigned number) {
    std::array<sock_filter, 4> filter = {{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                                          BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
                                          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
                                          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)}};
    const sock_fprog program{.len = filter.size(), .filter = filter.data()};
    sys::check(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    sys::check(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), "seccomp");
}

void refused(long result, const char* what) {
    must_hold(result < 0 && (errno == EPERM || errno == ENOSYS), what);
}

void expect_no_way_to_run_anything() {
    refused(::fork(), "fork");
    refused(::syscall(SYS_ptrace, 0, 0, 0, 0), "ptrace");
    refused(::syscall(SYS_tgkill, ::getpid(), ::gettid(), SIGTERM), "tgkill");
    const long flags = MAP_PRIVATE | MAP_ANONYMOUS;
    refused(reinterpret_cast<long>(::mmap(nullptr, 4096, PROT_READ | PROT_EXEC, flags, -1, 0)), "mmap");
    void* const data = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, flags, -1, 0);
    must_hold(data != MAP_FAILED, "a mapping");
    refused(::mprotect(data, 4096, PROT_READ | PROT_EXEC), "mprotect");
    refused(::ioctl(STDERR_FILENO, 0x5412, "x"), "TIOCSTI");
}

bool is_root() {
    return ::geteuid() == 0;
}

}  // namespace

TEST_CASE("a confined process has no_new_privs, a filter and few capabilities, and so have its threads") {
    const Confinement confinement;
    const Shared<std::atomic<std::int32_t>> no_namespace;
    *no_namespace = -1;
    CHECK(run_worker([&] {
              const std::string missing = confinement.confine(*no_namespace);
              must_hold(missing.empty(), missing);
              const auto check = [] {
                  must_hold(status_line("NoNewPrivs") == "1", "no_new_privs");
                  must_hold(status_line("Seccomp") == "2", "a filter");
                  must_hold(status_line("CapPrm") == status_line("CapEff"), "effective");
                  if (is_root()) must_hold(status_line("CapPrm") == status_line("CapBnd"), "bounding");
                  must_hold(status_line("CapInh") == "0000000000000000", "inheritable");
                  must_hold(status_line("CapAmb") == "0000000000000000", "ambient");
              };
              check();
              std::thread(check).join();
          }) == 0);
    CHECK((*no_namespace >= 0) == is_root());
    if (*no_namespace >= 0) ::close(*no_namespace);
}

TEST_CASE("the mount namespace is made once, holds what is needed and nothing that may be written") {
    if (!is_root()) return;
    const Confinement confinement;
    const Shared<std::atomic<std::int32_t>> shared;
    *shared = -1;
    const TemporaryDirectory source;
    make_file(source.file("a"), "hello");
    const UniqueFd directory = sys::open_at(AT_FDCWD, source.path().c_str(), O_PATH | O_DIRECTORY);
    const std::string ours = mount_namespace();
    for (int turn = 0; turn < 2; ++turn) {
        CHECK(run_worker([&] {
                  const std::int32_t before = *shared;
                  const std::string missing = confinement.confine(*shared);
                  must_hold(missing.empty(), missing);
                  must_hold(turn == 0 || *shared == before, "the same");
                  must_hold(mount_namespace() != ours, "another than ours");
                  must_hold(::mkdirat(AT_FDCWD, "/x", 0755) != 0 && errno == EROFS, "read-only");
                  must_hold(::open("/proc/self/comm", O_WRONLY) < 0 && errno == EROFS, "/proc is, too");
                  must_hold(::open("/dev/null", O_RDWR) < 0 && errno == EACCES, "no devices");
                  must_hold(is_sanitized || (::access("/etc", F_OK) != 0 && errno == ENOENT), "nothing of the host's");
                  // The source is reached by its descriptor, and by way of /proc.
                  must_hold(sys::open_at(directory.get(), "new", O_RDWR | O_CREAT | O_EXCL).get() >= 0, "create");
                  const UniqueFd path = sys::open_at(directory.get(), "a", O_PATH);
                  must_hold(
                      sys::write_at(sys::reopen(path.get(), O_RDWR).get(), std::as_bytes(std::span("J", 1)), 0) == 1,
                      "write");
                  ::unlinkat(directory.get(), "new", 0);
              }) == 0);
    }
    CHECK(content_of(sys::open_at(AT_FDCWD, source.file("a").c_str(), O_RDONLY).get()) == "Jello");
    ::close(*shared);
}

TEST_CASE("a confined process starts threads and no process, runs no program and no code of its own, mounts nothing") {
    const Confinement confinement;
    const Shared<std::atomic<std::int32_t>> no_namespace;
    *no_namespace = -1;
    CHECK(run_worker([&] {
              must_hold(confinement.confine(*no_namespace).empty(), "confined");
              refused(::execl("/proc/self/exe", "nosigbus", nullptr), "execve");
              refused(::mount("none", "/", "tmpfs", 0, nullptr), "mount");
              refused(::umount2("/proc", MNT_DETACH), "umount2");
              refused(::unshare(CLONE_NEWUSER), "unshare");
              refused(::unshare(CLONE_NEWNS | CLONE_FS), "unshare");
              if (sees_kind_of_socket) {
                  refused(::socket(AF_INET, SOCK_STREAM, 0), "socket");
                  refused(::socket(AF_NETLINK, SOCK_RAW, 0), "socket");
              }
              refused(::chroot("/"), "chroot");
              refused(::syscall(SYS_bpf, 0, nullptr, 0), "bpf");
              refused(::syscall(SYS_open_by_handle_at, -1, nullptr, 0), "open_by_handle_at");
              refused(::setresuid(1, 1, 1), "setresuid");
              refused(::syscall(SYS_setns, -1, 0), "setns");
              if (!is_sanitized) expect_no_way_to_run_anything();
              must_hold(::unshare(CLONE_FS) == 0, "unshare(CLONE_FS)");
              const UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
              must_hold(static_cast<bool>(socket), "a socket for syslog(3)");
              int done = 0;
              std::thread([&done] { done = 1; }).join();
              must_hold(done == 1, "a thread");
          }) == 0);
    if (*no_namespace >= 0) ::close(*no_namespace);
}

TEST_CASE("a confined process reaches the log, wherever its socket is") {
    if (!is_root()) return;
    const Confinement confinement;
    const TemporaryDirectory elsewhere;
    for (const std::string& place : {std::string("/dev/log"), elsewhere.file("socket")}) {
        CAPTURE(place);
        const Shared<std::atomic<std::int32_t>> shared;
        *shared = -1;
        CHECK(run_worker([&] {
                  // A /dev of our own.
                  sys::check(::unshare(CLONE_NEWNS), "unshare");
                  sys::check(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "private");
                  sys::check(::mount("none", "/dev", "tmpfs", 0, nullptr), "tmpfs");
                  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
                  place.copy(address.sun_path, sizeof address.sun_path - 1);
                  if (place != "/dev/log") sys::check(::symlink(place.c_str(), "/dev/log"), "symlink");
                  const UniqueFd log(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
                  sys::check(::bind(log.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), "bind");

                  const std::string missing = confinement.confine(*shared);
                  must_hold(missing.empty(), missing);
                  log::use_syslog();
                  log::warning("from inside");
                  std::array<char, 256> line{};
                  must_hold(::fcntl(log.get(), F_SETFL, O_NONBLOCK) == 0 &&
                                ::read(log.get(), line.data(), line.size() - 1) > 0 &&
                                std::string(line.data()).ends_with(": from inside"),
                            "the line");
              }) == 0);
        ::close(*shared);
    }
}

TEST_CASE("a namespace that cannot be made as it should be is not made at all, and the rest is done") {
    if (!is_root()) return;
    const Confinement confinement;
    for (const unsigned call : {SYS_unshare, SYS_fsopen, SYS_open_tree, SYS_pivot_root, SYS_mount_setattr}) {
        CAPTURE(call);
        if (is_sanitized && call == SYS_fsopen) continue;
        const Shared<std::atomic<std::int32_t>> shared;
        *shared = -1;
        CHECK(run_worker([&] {
                  const std::string before = mount_namespace();
                  const std::string here = std::filesystem::current_path();
                  refuse_call(call);
                  const std::string missing = confinement.confine(*shared);
                  must_hold(missing.starts_with("a mount namespace of its own ("), missing);
                  must_hold(missing.find("), ") == std::string::npos, missing);
                  must_hold(mount_namespace() == before, "back");
                  must_hold(std::filesystem::path(std::string(here)) ==
                                sys::name_of(sys::open_at(AT_FDCWD, ".", O_PATH).get()),
                            "back where it was");
                  must_hold(status_line("CapPrm") == status_line("CapBnd"), "capabilities");
                  must_hold(status_line("Seccomp") == "2", "a filter");
              }) == 0);
        CHECK(*shared == -1);
    }
}
