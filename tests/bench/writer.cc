#include "tests/bench/writer.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <ctime>
#include <new>
#include <stdexcept>
#include <system_error>
#include <vector>

#include "lib/futex.h"
#include "tests/mount/eventually.h"
#include "tests/mount/files.h"
#include "tests/mount/process.h"

namespace nosigbus::bench {

namespace {

// std::atomic::wait of libstdc++ works within one process only.
using Word = std::atomic<std::uint32_t>;

// Sleeps until `word` is `value`. False when it is not after `seconds`.
bool wait_for(Word& word, std::uint32_t value, std::chrono::seconds seconds) {
    const auto end = Clock::now() + seconds;
    for (std::uint32_t now = word.load(); now != value; now = word.load()) {
        const auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(end - Clock::now());
        if (left.count() <= 0) return false;
        const auto whole = std::chrono::floor<std::chrono::seconds>(left);
        const timespec timeout = {.tv_sec = static_cast<std::time_t>(whole.count()),
                                  .tv_nsec = static_cast<long>((left - whole).count())};
        sys::futex_wait(word, now, &timeout);
    }
    return true;
}

// What is written: made before the clock runs.
struct Contents {
    explicit Contents(std::size_t length) : usual(length, Writer::usual), fresh(length, Writer::fresh) {}
    std::vector<std::byte> usual;
    std::vector<std::byte> fresh;
};

// One system call. Its errno, or 0.
int carry_out(Change change, int fd, const Contents& contents, off_t offset, std::size_t length) {
    const auto write = [&](const std::vector<std::byte>& bytes) {
        const ssize_t written = ::pwrite(fd, bytes.data(), length, offset);
        return written == static_cast<ssize_t>(length) ? 0 : written < 0 ? errno : EIO;
    };
    switch (change) {
        case Change::truncate:
            return ::ftruncate(fd, 0) == 0 ? 0 : errno;
        case Change::punch:
            return ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, static_cast<off_t>(length)) == 0
                       ? 0
                       : errno;
        case Change::write:
            return write(contents.fresh);
        case Change::restore:
            return write(contents.usual);
    }
    return EINVAL;
}

}  // namespace

// Who owns the rest: us while `ordered` and `done` are the same, the process while they differ.
struct Writer::Desk {
    Word ordered{0};
    Word done{0};
    Change change{};
    off_t offset = 0;
    std::size_t length = 0;
    Clock::time_point begin{};
    int error = 0;

    [[noreturn]] void work(int fd, const Contents& contents) {
        for (std::uint32_t order = 1;; ++order) {
            while (!wait_for(ordered, order, std::chrono::hours(1))) {
            }
            begin = Clock::now();
            error = carry_out(change, fd, contents, offset, length);
            done.store(order);
            sys::futex_wake(done, INT_MAX);
        }
    }
};

Writer::Writer(int fd, std::size_t length)
    : memory_(-1, test::page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS) {
    static_assert(sizeof(Desk) <= 4096 && Word::is_always_lock_free);
    new (memory_.data()) Desk;
    pid_ = test::fork_process();
    if (pid_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    try {
        desk().work(fd, Contents(length));
    } catch (const std::exception&) {
        ::_exit(1);
    }
}

Writer::~Writer() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
}

void Writer::start(Change change, std::size_t offset, std::size_t length) {
    desk().change = change;
    desk().offset = static_cast<off_t>(offset);
    desk().length = length;
    desk().ordered.fetch_add(1);
    sys::futex_wake(desk().ordered, INT_MAX);
}

Clock::time_point Writer::wait() {
    if (!wait_for(desk().done, desk().ordered.load(), test::patience)) throw std::runtime_error("the writer hangs");
    if (desk().error != 0) throw std::system_error(desk().error, std::generic_category(), "changing the file");
    return desk().begin;
}

}  // namespace nosigbus::bench
