// A truncation that is answered before it has happened, when the server dies between the two.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <fstream>
#include <future>
#include <optional>
#include <string>
#include <thread>

#include "tests/mount/counters.h"
#include "tests/mount/faults.h"
#include "tests/mount/files.h"
#include "tests/mount/mapping.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

// Holds the lock of a file's inode: writes to it what the view of another mount has, whose server is stopped.
class HeldLock {
  public:
    HeldLock(int file, std::size_t offset) : source_(make_file(slow_.raw("file"), pattern(0, page))) {
        stop_or_continue(SIGSTOP);
        CHECK(eventually([this] { return worker_.is_stopped(); }));
        writer_ = std::thread([this, file, offset] {
            thread_ = ::gettid();
            written_ = ::pwrite(file, mapping_.data(), page, static_cast<off_t>(offset));
        });
        CHECK(eventually([this] { return is_held(); }));
    }
    HeldLock(const HeldLock&) = delete;
    HeldLock& operator=(const HeldLock&) = delete;
    ~HeldLock() { release(); }

    // Returns what the write came to.
    ssize_t release() {
        if (writer_.joinable()) {
            stop_or_continue(SIGCONT);
            writer_.join();
        }
        return written_;
    }

  private:
    void stop_or_continue(int signal) const {
        ::kill(slow_.pid(), signal);
        ::kill(worker_.pid(), signal);
    }

    // Whether the writer sleeps in its system call, as it does there for what it cannot read, with the lock held.
    [[nodiscard]] bool is_held() const {
        long number = -1;  // "running" is no number
        std::ifstream(fmt::format("/proc/self/task/{}/syscall", thread_.load())) >> number;
        return thread_ != 0 && number == SYS_pwrite64;
    }

    const ViewMount slow_{{"max_size=1M", "engine=cache"}};  // a load is to ask the server
    const UniqueFd source_;
    const Mapping mapping_{open_file(slow_.view("file"), O_RDONLY).get(), page};
    const Worker worker_{slow_};
    std::atomic<pid_t> thread_ = 0;
    ssize_t written_ = 0;
    std::thread writer_;
};

// `held`: for so long after there is another worker.
void check_truncation(const std::string& point, std::chrono::milliseconds held) {
    CAPTURE(point);
    CAPTURE(held.count());
    const ViewMount mount({"max_size=1M"});
    const UniqueFd raw = make_file(mount.raw("file"), pattern(0, 10 * page));
    const UniqueFd view = open_file(mount.view("file"), O_RDWR);
    const Mapping mapping(view.get(), 10 * page);
    const Worker worker(mount);
    HeldLock lock(raw.get(), 8 * page);

    const Replacements replacements(mount);
    ask_for_fault(mount, point + " die");
    auto said = std::async(std::launch::async, [&] {
        const std::string truncated = answer(::ftruncate(view.get(), static_cast<off_t>(2 * page + 5)));
        // A truncation that comes twice takes this away.
        return truncated + " " + answer(::pwrite(view.get(), "later", 5, static_cast<off_t>(3 * page)));
    });
    CHECK_MESSAGE(replacements.are(1), replacements.log());
    CHECK(counters(mount).at("early_truncations") >= 1);
    CHECK(difference(mapping.bytes(0, 2 * page), pattern(0, 2 * page)) == "");
    std::this_thread::sleep_for(held);
    CHECK(said.wait_for(std::chrono::seconds(0)) == std::future_status::timeout);
    CHECK(lock.release() == static_cast<ssize_t>(page));

    CHECK(said.get() == "0 5");
    CHECK(worker.ends());
    const std::string wanted = padded(pattern(0, 2 * page + 5), 3 * page) + "later";
    CHECK(answer(::fsync(view.get())) == "0");
    CHECK(difference(read_all(raw.get()), wanted) == "");
    CHECK(difference(read_all(view.get()), wanted) == "");
    CHECK(difference(mapping.bytes(), padded(wanted, 10 * page)) == "");
    // Nothing of it is left to be done.
    write_at(raw.get(), 20 * page, "at last");
    const GrowsUp grows_up;
    Worker(mount).kill();
    CHECK_MESSAGE(replacements.are(2), replacements.log());
    CHECK(answer(::fsync(view.get())) == "0");
    CHECK(size_of(raw.get()) == 20 * page + 7);
}

}  // namespace

TEST_SUITE_BEGIN("fault");

TEST_CASE("a truncation answered early happens once when the server dies") {
    for (const char* point : {"truncation.noted", "truncation.answered"}) {
        // What the client does next comes while the next worker starts, at one time or another.
        for (int i = 0; i < 3; ++i) check_truncation(point, std::chrono::milliseconds(0));
        // Longer than that worker waits for the one that still has to end.
        check_truncation(point, std::chrono::milliseconds(2500));
    }
}

TEST_SUITE_END();
