// Clients of a mount: processes that use it without pause, check whatever they are told, and keep a diary.
#pragma once

#include <fmt/format.h>
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "lib/unique_fd.h"
#include "tests/mount/eventually.h"
#include "tests/mount/files.h"
#include "tests/mount/mapping.h"

namespace nosigbus::test {

using Random = std::mt19937;

inline std::size_t below(Random& random, std::size_t limit) {
    return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random);
}

inline void nap(Random& random, std::chrono::microseconds at_most) {
    std::this_thread::sleep_for(
        std::chrono::microseconds(below(random, static_cast<std::size_t>(at_most.count()) + 1)));
}

// Both throw where the two differ: the first says at which byte, the second shows them.
void expect_bytes(const char* what, const std::string& got, const std::string& wanted);
template <typename Value>
void expect(const char* what, const Value& got, const Value& wanted) {
    if (got != wanted) throw std::runtime_error(fmt::format("{}: {} instead of {}", what, got, wanted));
}

// An object that a process shares with those it forks.
template <typename Value>
class Shared {
  public:
    Shared()
        : value_(new (must(::mmap(nullptr, sizeof(Value), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0),
                           "mmap")) Value()) {}
    Shared(const Shared&) = delete;
    Shared& operator=(const Shared&) = delete;
    ~Shared() {
        value_->~Value();
        ::munmap(value_, sizeof(Value));
    }

    Value* operator->() const { return value_; }
    Value& operator*() const { return *value_; }

  private:
    Value* value_;
};

// How long calls of one kind took.
class Calls {
  public:
    void add(std::chrono::nanoseconds duration, bool was_refused);
    void add(const Calls& others);

    [[nodiscard]] std::uint64_t count() const { return count_; }
    [[nodiscard]] std::uint64_t refused() const { return refused_; }  // of these, those that returned -1
    [[nodiscard]] std::chrono::microseconds longest() const { return longest_; }

    // What so large a share of the calls did not exceed, but for an eighth.
    [[nodiscard]] std::chrono::microseconds quantile(double share) const;

  private:
    static constexpr std::size_t steps = 8;  // for each power of two

    static std::size_t slot_of(std::uint64_t microseconds);
    static std::uint64_t most_in(std::size_t slot);

    std::uint64_t count_ = 0;
    std::uint64_t refused_ = 0;
    std::chrono::microseconds longest_{0};
    std::array<std::uint64_t, 64 * steps> counts_{};
};

// What one client does, in memory that it shares with the test. All kinds of calls are string literals.
class Diary {
  public:
    [[nodiscard]] bool is_over() const { return over_; }

    // Asked before each turn: whether there is one. A short rest lets others have theirs.
    bool goes_on();

    // What the next calls are made on; for the report of a failure.
    void about(const std::string& subject);

    // Makes a call. A client that hangs is known by it.
    template <typename Call>
    auto note(const char* kind, Call call) {
        doing_ = kind;
        const auto start = std::chrono::steady_clock::now();
        const auto result = call();
        calls(kind).add(std::chrono::steady_clock::now() - start, result == decltype(result)(-1));
        return result;
    }

    // Makes a call that must not fail.
    template <typename Call>
    auto must(const char* kind, Call call) {
        return test::must(note(kind, call), kind);
    }
    UniqueFd open(const std::string& path, int flags, mode_t mode = 0644);

    // Page by page. Throws where an access raises SIGBUS.
    std::string load(const Mapping& mapping, std::size_t offset, std::size_t length);
    std::string load(const Mapping& mapping) { return load(mapping, 0, mapping.size()); }
    void store(const Mapping& mapping, std::size_t offset, const std::string& bytes);

  private:
    friend class Clients;

    struct Kind {
        const char* name = nullptr;
        Calls calls;
    };

    Calls& calls(const char* kind);
    void note_failure(const std::string& how);
    [[nodiscard]] std::string last_call() const;

    std::atomic<bool> over_ = false;
    std::atomic<const char*> doing_ = "none";
    std::array<char, 200> subject_{};
    std::atomic<bool> failed_ = false;
    std::array<char, 4000> failure_{};
    std::array<Kind, 48> kinds_;
    Random random_;
};

// All clients of one storm.
class Clients {
  public:
    // Lives until the diary says that it is over. Throws where anything is not as it should be.
    using Life = std::function<void(Diary& diary)>;

    Clients() = default;
    Clients(const Clients&) = delete;
    Clients& operator=(const Clients&) = delete;
    ~Clients();

    // Starts a process. To be called before there are threads.
    void start(const std::string& name, const Life& life);

    // Whether a client has something to complain about already.
    [[nodiscard]] bool complain() const;

    // Tells all that it is over, and waits until they have ended. Returns their complaints.
    std::vector<std::string> end();

    // Whether some did not end then.
    [[nodiscard]] bool hang() const { return hang_; }

    // By kind, of all clients.
    [[nodiscard]] std::map<std::string, Calls> calls() const;

  private:
    struct Client {
        std::string name;
        Shared<Diary> diary;
        pid_t pid = -1;
    };

    std::list<Client> clients_;
    bool hang_ = false;
};

// Somebody who has his way with files beside the mount, in a thread of the client's: takes turns until the end.
class Beside {
  public:
    explicit Beside(const std::function<void()>& turn);
    Beside(const Beside&) = delete;
    Beside& operator=(const Beside&) = delete;
    ~Beside();

    // Throws where he could not go on.
    void check() const;

  private:
    std::atomic<bool> over_ = false;
    std::atomic<bool> failed_ = false;
    std::string failure_;
    std::thread thread_;
};

}  // namespace nosigbus::test
