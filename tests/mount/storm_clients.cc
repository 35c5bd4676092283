#include "tests/mount/storm_clients.h"

#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <csignal>
#include <cstring>

#include "tests/mount/process.h"

namespace nosigbus::test {

using namespace std::chrono_literals;

namespace {

// How long all clients together may take to end. Each may have to wait for the server a few times.
constexpr std::chrono::seconds last_wait{30};

// They are many, and wait for the server most of the time: what they see should be its doing, not their own number's.
constexpr int niceness = 10;

template <std::size_t size>
void copy_text(std::array<char, size>& to, const std::string& text) {
    to[text.copy(to.data(), size - 1)] = '\0';
}

bool is_in_memory(const std::byte* address) {
    unsigned char resident = 0;
    must(::mincore(const_cast<std::byte*>(address), page, &resident), "mincore");
    return (resident & 1U) != 0;
}

}  // namespace

void expect_bytes(const char* what, const std::string& got, const std::string& wanted) {
    if (got != wanted) throw std::runtime_error(fmt::format("{}: {}", what, difference(got, wanted)));
}

void Calls::add(std::chrono::nanoseconds duration, bool was_refused) {
    const auto rounded = std::chrono::duration_cast<std::chrono::microseconds>(duration);
    ++count_;
    refused_ += was_refused ? 1 : 0;
    longest_ = std::max(longest_, rounded);
    ++counts_[slot_of(static_cast<std::uint64_t>(rounded.count()))];
}

void Calls::add(const Calls& others) {
    count_ += others.count_;
    refused_ += others.refused_;
    longest_ = std::max(longest_, others.longest_);
    for (std::size_t i = 0; i < counts_.size(); ++i) counts_[i] += others.counts_[i];
}

std::chrono::microseconds Calls::quantile(double share) const {
    const auto wanted = static_cast<std::uint64_t>(std::ceil(share * static_cast<double>(count_)));
    std::uint64_t seen = 0;
    for (std::size_t slot = 0; slot < counts_.size(); ++slot) {
        seen += counts_[slot];
        if (seen >= wanted) return std::min(longest_, std::chrono::microseconds(most_in(slot)));
    }
    return longest_;
}

// The first slots hold one number each, then each power of two has the same number of slots.
std::size_t Calls::slot_of(std::uint64_t microseconds) {
    if (microseconds < steps) return microseconds;
    const auto shift = static_cast<unsigned>(std::bit_width(microseconds)) - std::bit_width(steps);
    return (shift + 1) * steps + (microseconds >> shift) % steps;
}

std::uint64_t Calls::most_in(std::size_t slot) {
    if (slot < steps) return slot;
    const std::size_t shift = slot / steps - 1;
    return ((steps + slot % steps + 1) << shift) - 1;
}

bool Diary::goes_on() {
    nap(random_, 1ms);
    return !over_;
}

void Diary::about(const std::string& subject) {
    copy_text(subject_, subject);
}

UniqueFd Diary::open(const std::string& path, int flags, mode_t mode) {
    about(path);
    return UniqueFd(must("open", [&] { return ::open(path.c_str(), flags | O_CLOEXEC, mode); }));
}

std::string Diary::load(const Mapping& mapping, std::size_t offset, std::size_t length) {
    std::string all;
    while (all.size() < length) {
        const std::size_t at = offset + all.size();
        const std::size_t size = std::min(page - at % page, length - all.size());
        const char* kind = is_in_memory(mapping.data() + at / page * page) ? "load" : "load (cold)";
        std::string bytes;
        note(kind, [&] {
            bytes = mapping.bytes(at, size);
            return 0;
        });
        if (bytes.size() < size)
            throw std::runtime_error(
                fmt::format("a load raised SIGBUS at {} of {}", at + bytes.size(), mapping.size()));
        all += bytes;
    }
    return all;
}

void Diary::store(const Mapping& mapping, std::size_t offset, const std::string& bytes) {
    const std::size_t stored = note("store", [&] { return mapping.store(offset, bytes); });
    if (stored < bytes.size())
        throw std::runtime_error(fmt::format("a store raised SIGBUS at {} of {}", offset + stored, mapping.size()));
}

Calls& Diary::calls(const char* kind) {
    for (Kind& known : kinds_) {
        if (known.name == nullptr) known.name = kind;
        if (std::strcmp(known.name, kind) == 0) return known.calls;
    }
    throw std::length_error("too many kinds of calls");
}

void Diary::note_failure(const std::string& how) {
    copy_text(failure_, fmt::format("{} (last call: {})", how, last_call()));
    failed_ = true;
}

std::string Diary::last_call() const {
    return fmt::format("{} of {}", doing_.load(), subject_.data());
}

Clients::~Clients() {
    for (const Client& client : clients_) {
        if (client.pid <= 0) continue;
        ::kill(client.pid, SIGKILL);
        wait_for(client.pid);
    }
}

void Clients::start(const std::string& name, const Life& life) {
    Client& client = clients_.emplace_back();
    client.name = name;
    client.pid = fork_process();
    if (client.pid != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::setpriority(PRIO_PROCESS, 0, niceness);
    Diary& diary = *client.diary;
    try {
        life(diary);
    } catch (const std::exception& failure) {
        diary.note_failure(failure.what());
    } catch (...) {  // a check of doctest's
        diary.note_failure("a check failed");
    }
    ::_exit(0);
}

bool Clients::complain() const {
    return std::any_of(clients_.begin(), clients_.end(), [](const Client& client) {
        siginfo_t ended{};  // but not yet waited for
        must(::waitid(P_PID, static_cast<id_t>(client.pid), &ended, WEXITED | WNOHANG | WNOWAIT), "waitid");
        return ended.si_pid != 0;
    });
}

std::vector<std::string> Clients::end() {
    for (const Client& client : clients_) client.diary->over_ = true;
    const auto deadline = std::chrono::steady_clock::now() + last_wait;
    std::vector<std::string> complaints;
    for (Client& client : clients_) {
        const Diary& diary = *client.diary;
        const auto left = deadline - std::chrono::steady_clock::now();
        const std::string how =
            wait_for(client.pid, std::max(std::chrono::duration_cast<std::chrono::milliseconds>(left), 0ms));
        if (how == "still running") {
            hang_ = true;
        } else {
            client.pid = -1;
        }
        if (diary.failed_) {
            complaints.push_back(fmt::format("{}: {}", client.name, diary.failure_.data()));
        } else if (how != "exit 0") {
            complaints.push_back(fmt::format("{}: {} (last call: {})", client.name, how, diary.last_call()));
        }
    }
    return complaints;
}

std::map<std::string, Calls> Clients::calls() const {
    std::map<std::string, Calls> all;
    for (const Client& client : clients_) {
        for (const Diary::Kind& kind : client.diary->kinds_) {
            if (kind.name != nullptr) all[kind.name].add(kind.calls);
        }
    }
    return all;
}

Beside::Beside(const std::function<void()>& turn)
    : thread_([this, turn] {
          try {
              while (!over_) turn();
          } catch (const std::exception& failure) {
              failure_ = failure.what();
              failed_ = true;
          }
      }) {}

Beside::~Beside() {
    over_ = true;
    thread_.join();
}

void Beside::check() const {
    if (failed_) throw std::runtime_error("beside the mount: " + failure_);
}

}  // namespace nosigbus::test
