#include "fs/confinement.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <sstream>
#include <string_view>
#include <system_error>
#include <utility>

#include "fs/backing_ids.h"
#include "lib/capabilities.h"
#include "lib/holes.h"
#include "lib/log.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

// capabilities(7). To whom a call is allowed the kernel has decided before it asks us (default_permissions): what is
// kept is what carries that out on files of any owner, as any caller.
constexpr std::array kept_capabilities = {
    CAP_CHOWN,            // SETATTR of the owner
    CAP_DAC_OVERRIDE,     // every file of the source, whoever may read or write it
    CAP_DAC_READ_SEARCH,  // linkat(2) of a descriptor (AT_EMPTY_PATH)
    CAP_FOWNER,           // SETATTR of mode and times, attributes, sticky directories: files of others
    CAP_FSETID,           // chmod(2) keeps the set-group-ID bit for any group; a write of root's keeps both
    CAP_SETUID,           // setfsuid(2): what is created belongs to the caller
    CAP_SETGID,           // setfsgid(2), setgroups(2): likewise
    CAP_MKNOD,            // MKNOD of a device
    CAP_SETFCAP,          // security.capability
    CAP_LINUX_IMMUTABLE,  // FS_IOC_SETFLAGS of +i and +a
    CAP_SYS_ADMIN,        // attributes trusted.* and security.*; files beyond fs.file-max
};

constexpr std::uint64_t kept_mask() {
    std::uint64_t mask = 0;
    for (const unsigned capability : kept_capabilities) mask |= mask_of(capability);
    return mask;
}

std::uint64_t permitted_capabilities() {
    Capabilities sets{};
    sys::check(get_capabilities(sets) ? 0 : -1, "capget");
    return sets.permitted;
}

// What no program that is executed could have either. Takes CAP_SETPCAP.
void bound_capabilities() {
    for (unsigned each = 0;; ++each) {
        const int is_there = ::prctl(PR_CAPBSET_READ, each);
        if (is_there < 0) return;  // the kernel knows no more of them
        const bool is_kept = (kept_mask() & mask_of(each)) != 0;
        if (is_there > 0 && !is_kept) sys::check(::prctl(PR_CAPBSET_DROP, each), "PR_CAPBSET_DROP");
    }
}

void keep_capabilities(std::uint64_t wanted) {
    // None is inheritable, and so none is ambient.
    const bool is_done = set_capabilities({.effective = wanted, .permitted = wanted, .inheritable = 0});
    sys::check(is_done ? 0 : -1, "capset");
}

// What of the host stays in sight: /proc, by which descriptors are opened again and threads looked at, and the place of
// the socket of syslog(3). Whoever opens it anew, as after a restart of its daemon, must find it.
void bind_what_is_needed(int root) {
    const auto bind = [root](const std::string& path, unsigned flags) {
        const auto parts = std::filesystem::path(path).relative_path();
        std::filesystem::path made;
        for (const auto& part : parts) {
            made /= part;
            if (::mkdirat(root, made.c_str(), 0755) != 0 && errno != EEXIST) sys::fail(errno, path.c_str());
        }
        const UniqueFd tree(
            sys::check(::open_tree(AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags), path.c_str()));
        sys::check(::move_mount(tree.get(), "", root, parts.c_str(), MOVE_MOUNT_F_EMPTY_PATH), path.c_str());
    };
    bind("/proc", AT_RECURSIVE);  // with what a container has put over parts of it
    bind("/dev", 0);
    std::error_code none;
    const auto log_directory = std::filesystem::canonical("/dev/log", none).parent_path();
    if (!none && log_directory != "/dev") bind(log_directory, 0);
}

// The root of the new namespace, still empty.
UniqueFd make_root() {
#ifdef NOSIGBUS_SANITIZED
    // Sanitizers look into the program's file for what they say.
    return UniqueFd(sys::check(::open_tree(AT_FDCWD, "/", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC), "open_tree"));
#else
    const UniqueFd fs(sys::check(::fsopen("tmpfs", FSOPEN_CLOEXEC), "tmpfs"));
    sys::check(::fsconfig(fs.get(), FSCONFIG_SET_STRING, "mode", "0755", 0), "tmpfs");
    sys::check(::fsconfig(fs.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0), "tmpfs");
    return UniqueFd(sys::check(::fsmount(fs.get(), FSMOUNT_CLOEXEC, 0), "fsmount"));
#endif
}

// In a namespace that was just made, a copy of the host's.
void leave_host_behind() {
    // Nothing that is mounted or unmounted from now on comes here, nor goes from here to the host.
    sys::check(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "MS_PRIVATE");
    const UniqueFd root = make_root();
    sys::check(::move_mount(root.get(), "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH), "move_mount");
    bind_what_is_needed(root.get());
    // Over each other, so that the old root can be detached with all that is mounted below: pivot_root(2). Above all
    // our own mount: a copy of it would keep the connection from ending.
    sys::check(::fchdir(root.get()), "fchdir");
    sys::check(::syscall(SYS_pivot_root, ".", "."), "pivot_root");
    sys::check(::umount2(".", MNT_DETACH), "umount2");
    sys::check(::chdir("/"), "chdir");
    mount_attr attributes{};
    attributes.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    sys::check(::mount_setattr(AT_FDCWD, "/", AT_RECURSIVE, &attributes, sizeof attributes), "mount_setattr");
}

constexpr const char* this_namespace = "/proc/self/ns/mnt";

// Descriptors of the source, opened before, lead on into the host's namespace: what is mounted there is seen through
// them, and can be written.
void enter_namespace(std::atomic<std::int32_t>& shared) {
    if (shared >= 0) {
        sys::check(::setns(shared, CLONE_NEWNS), "setns");
        return;
    }
    const UniqueFd before = sys::open_at(AT_FDCWD, this_namespace, O_RDONLY);
    const UniqueFd root = sys::open_at(AT_FDCWD, "/", O_PATH | O_DIRECTORY);
    const UniqueFd here = sys::open_at(AT_FDCWD, ".", O_PATH | O_DIRECTORY);
    sys::check(::unshare(CLONE_NEWNS), "unshare");
    try {
        leave_host_behind();
        shared = sys::open_at(AT_FDCWD, this_namespace, O_RDONLY).release();
    } catch (const std::system_error&) {
        // A copy of all mounts, kept, would be worse than none. setns(2) sets the root directory too.
        const bool is_back = ::setns(before.get(), CLONE_NEWNS) == 0 && ::fchdir(root.get()) == 0 &&
                             ::chroot(".") == 0 && ::fchdir(here.get()) == 0;
        if (!is_back) log::error("no way back from a mount namespace that is none");
        throw;
    }
}

// Names that an architecture does not have are skipped.
constexpr const char* allowed_calls =
    // files by descriptor
    "read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek _llseek close close_range dup "
    "memfd_create cachestat fcntl fcntl64 fstat fstat64 ftruncate ftruncate64 fallocate fsync fdatasync "
    "copy_file_range "
    "fadvise64 "
    "fadvise64_64 arm_fadvise64_64 fchmod fchown fchown32 fstatfs fstatfs64 fgetxattr fsetxattr flistxattr "
    "fremovexattr getdents64 "
    // files by name
    "open openat openat2 stat stat64 lstat lstat64 newfstatat fstatat64 statx statfs statfs64 access faccessat "
    "faccessat2 readlink readlinkat mkdirat mknodat symlinkat linkat unlinkat renameat renameat2 chmod fchmodat "
    "fchmodat2 fchownat utimensat utimensat_time64 getxattr setxattr listxattr removexattr lgetxattr lsetxattr "
    "llistxattr lremovexattr chdir fchdir umask "
    // events
    "inotify_init1 inotify_add_watch inotify_rm_watch eventfd2 poll ppoll ppoll_time64 pidfd_open "
    // memory; process_vm_writev(2) reaches no process but this one, see CAP_SYS_PTRACE
    "brk munmap mremap madvise membarrier process_vm_writev "
    // threads and time
    "futex futex_time64 futex_waitv futex_wait futex_wake futex_requeue set_robust_list rseq set_tid_address "
    "gettid getpid getppid exit exit_group sched_yield sched_getaffinity sched_getparam sched_getscheduler "
    "getpriority setpriority getcpu nanosleep clock_nanosleep clock_nanosleep_time64 clock_gettime "
    "clock_gettime64 clock_getres clock_getres_time64 gettimeofday time getrusage pause restart_syscall "
    "rt_sigaction rt_sigprocmask rt_sigreturn sigreturn sigaltstack set_thread_area set_tls "
    // who we are, and whom we act as
    "getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getgroups getgroups32 setgroups "
    "setgroups32 setfsuid setfsuid32 setfsgid setfsgid32 capget capset prctl uname sysinfo getrandom getrlimit "
    "ugetrlimit "
    // syslog(3), by a socket, see below
    "connect send sendto sendmsg "
#ifdef NOSIGBUS_SANITIZED
    // LeakSanitizer stops all threads from another process, and says why it could not
    "getdents clone clone3 ptrace wait4 kill tgkill mmap mmap2 mprotect prlimit64 ioctl pipe2 pipe dup2 getcwd mincore "
    "msync mlock munlock personality arch_prctl epoll_create1 sched_setaffinity rt_sigtimedwait "
#elif defined(NOSIGBUS_FAULT_POINTS)
    "kill "
#endif
    "";

struct FreeRules {
    void operator()(void* rules) const { ::seccomp_release(rules); }
};

// The rules while they are made. What libseccomp or the architecture does not know is skipped.
class Rules {
  public:
    // A refused call fails. Nothing is killed: the faults of all readers depend on this process.
    Rules() : rules_(::seccomp_init(SCMP_ACT_ERRNO(EPERM))) {
        if (!rules_) throw std::bad_alloc();
        check(::seccomp_attr_set(rules_.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(EPERM)));
        constexpr std::uint32_t binary_tree = 2;
        check(::seccomp_attr_set(rules_.get(), SCMP_FLTATR_CTL_OPTIMIZE, binary_tree));
    }

    void allow(const char* name) { add(SCMP_ACT_ALLOW, name, {}); }
    void allow(const char* name, scmp_arg_cmp argument) { add(SCMP_ACT_ALLOW, name, {argument}); }
    void refuse(const char* name, int error) { add(SCMP_ACT_ERRNO(static_cast<std::uint32_t>(error)), name, {}); }

    [[nodiscard]] std::vector<sock_filter> program() const {
        // libseccomp 2.5 writes it to a descriptor only.
        const UniqueFd file(sys::check(::memfd_create("filter", MFD_CLOEXEC), "memfd_create"));
        check(::seccomp_export_bpf(rules_.get(), file.get()));
        std::vector<sock_filter> program(static_cast<std::size_t>(sys::file_size(file.get())) / sizeof(sock_filter));
        sys::read_at(file.get(), std::as_writable_bytes(std::span(program)), 0);
        return program;
    }

  private:
    static void check(int result) {
        if (result < 0) sys::fail(-result, "libseccomp");
    }

    void add(std::uint32_t action, const char* name, std::initializer_list<scmp_arg_cmp> arguments) {
        int number = ::seccomp_syscall_resolve_name(name);
        // libseccomp 2.5 does not know it; it has this number everywhere.
        if (number == __NR_SCMP_ERROR && name == std::string_view("cachestat")) number = cachestat_number;
        if (number == __NR_SCMP_ERROR) return;
        const int result = ::seccomp_rule_add_array(rules_.get(), action, number,
                                                    static_cast<unsigned>(arguments.size()), arguments.begin());
        if (result != -EDOM) check(result);
    }

    std::unique_ptr<void, FreeRules> rules_;
};

constexpr scmp_arg_cmp argument_is(unsigned argument, std::uint64_t value) {
    return {.arg = argument, .op = SCMP_CMP_EQ, .datum_a = value, .datum_b = 0};
}

constexpr scmp_arg_cmp argument_has(unsigned argument, std::uint64_t mask, std::uint64_t value) {
    return {.arg = argument, .op = SCMP_CMP_MASKED_EQ, .datum_a = mask, .datum_b = value};
}

// Calls of which only some uses are needed.
#ifndef NOSIGBUS_SANITIZED
void allow_in_part(Rules& rules) {
#ifdef __s390__
    constexpr unsigned clone_flags = 1;
#else
    constexpr unsigned clone_flags = 0;
#endif
    rules.allow("clone", argument_has(clone_flags, CLONE_THREAD, CLONE_THREAD));
    // Its flags lie in memory, where no filter sees them. glibc uses clone(2) then.
    rules.refuse("clone3", ENOSYS);
    // No code but what is there.
    for (const char* name : {"mmap", "mmap2", "mprotect"}) rules.allow(name, argument_has(2, PROT_EXEC, 0));
    rules.allow("tgkill", argument_is(2, SIGABRT));  // abort(3)
    rules.allow("prlimit64", argument_is(2, 0));     // getrlimit(2)
    for (const std::uint64_t request : {FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR,
                                        backing_open_request, backing_close_request})
        rules.allow("ioctl", argument_has(1, 0xffff'ffff, request));
}
#endif

std::vector<sock_filter> make_filter() {
    Rules rules;
    std::istringstream names(allowed_calls);
    for (std::string name; names >> name;) rules.allow(name.c_str());
    rules.allow("unshare", argument_is(0, CLONE_FS));  // for a umask(2) of one thread
    // Where glibc makes sockets by socketcall(2), as on i386, its arguments lie in memory, where no filter sees them:
    // libseccomp then allows any kind of socket.
    rules.allow("socket", argument_is(0, AF_UNIX));
#ifndef NOSIGBUS_SANITIZED
    allow_in_part(rules);
#endif
    return rules.program();
}

void install(std::vector<sock_filter> filter) {
    sock_fprog program{.len = static_cast<unsigned short>(filter.size()), .filter = filter.data()};
    // What is confined runs no foreign code, so it needs no slow speculation: prctl(2), PR_SET_SPECULATION_CTRL.
    sys::check(::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program), "seccomp");
}

}  // namespace

Confinement::Confinement() {
    try {
        filter_ = make_filter();
    } catch (const std::system_error& failure) {
        why_no_filter_ = failure.what();
    }
}

std::string Confinement::confine(std::atomic<std::int32_t>& mount_namespace) const {
    std::string missing;
    const auto attempt = [&missing](const char* what, auto step) {
        try {
            step();
        } catch (const std::system_error& failure) {
            missing += fmt::format("{}{} ({})", missing.empty() ? "" : ", ", what, failure.what());
        }
    };
    ::tzset();  // reads /etc/localtime, for the times of syslog(3)
    if (::geteuid() == 0) attempt("a mount namespace of its own", [&] { enter_namespace(mount_namespace); });
    const std::uint64_t permitted = permitted_capabilities();
    if (permitted != 0) {
        attempt("a bound on capabilities", bound_capabilities);
        attempt("fewer capabilities", [permitted] { keep_capabilities(permitted & kept_mask()); });
    }
    attempt("no_new_privs", [] { sys::check(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl"); });
    attempt("a system-call filter", [this] {
        if (filter_.empty()) throw std::system_error(ENOSYS, std::generic_category(), why_no_filter_);
        install(filter_);
    });
    return missing;
}

}  // namespace nosigbus
