#include "lib/fault_point.h"

#ifdef NOSIGBUS_FAULT_POINTS

#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <utility>

namespace nosigbus {
namespace {

enum class FaultAction : std::uint32_t { die = 1, abort, hang, spin, deadlock, stop, nomem };

constexpr std::array<std::pair<std::string_view, FaultAction>, 7> actions = {{{"die", FaultAction::die},
                                                                              {"abort", FaultAction::abort},
                                                                              {"hang", FaultAction::hang},
                                                                              {"spin", FaultAction::spin},
                                                                              {"deadlock", FaultAction::deadlock},
                                                                              {"stop", FaultAction::stop},
                                                                              {"nomem", FaultAction::nomem}}};

std::atomic<Fault*> faults{nullptr};

// FNV-1a; 0 means none.
std::uint64_t hash(std::string_view text, std::uint64_t before = 0xcbf2'9ce4'8422'2325U) {
    for (const char c : text) before = (before ^ static_cast<unsigned char>(c)) * 0x0100'0000'01b3U;
    return before;
}

[[noreturn]] void wait_for_ever() {
    for (;;) ::pause();
}

void act(FaultAction action) {
    switch (action) {
        case FaultAction::die:
            ::kill(::getpid(), SIGKILL);
            wait_for_ever();
        case FaultAction::abort:
            std::abort();
        case FaultAction::hang:
            wait_for_ever();
        case FaultAction::spin: {
            std::atomic<std::uint64_t> turns{0};
            for (;;) ++turns;
        }
        case FaultAction::deadlock: {
            std::timed_mutex mutex;
            mutex.lock();
            std::thread([&mutex] { mutex.lock(); }).join();
            return;
        }
        case FaultAction::stop:
            ::kill(::getpid(), SIGSTOP);
            return;
        case FaultAction::nomem:
            throw std::bad_alloc();
    }
}

void reach(std::uint64_t place) {
    Fault* const fault = faults;
    if (fault == nullptr || fault->name != place) return;
    std::uint32_t skip = fault->skip;
    while (skip > 0) {
        if (fault->skip.compare_exchange_weak(skip, skip - 1)) return;
    }
    // Once only, whoever comes first.
    if (fault->name.compare_exchange_strong(place, 0)) act(static_cast<FaultAction>(fault->action.load()));
}

}  // namespace

void use_faults(Fault& fault) {
    faults = &fault;
}

bool ask_for_fault(std::string_view text) {
    Fault* const fault = faults;
    const std::size_t space = text.find(' ');
    if (fault == nullptr || space == std::string_view::npos) return false;
    const std::string_view name = text.substr(0, space);
    std::string_view action = text.substr(space + 1);
    std::uint32_t skip = 0;
    if (const std::size_t more = action.find(' '); more != std::string_view::npos) {
        skip = static_cast<std::uint32_t>(std::atoi(std::string(action.substr(more + 1)).c_str()));
        action = action.substr(0, more);
    }
    for (const auto& [word, meaning] : actions) {
        if (action != word) continue;
        fault->action = static_cast<std::uint32_t>(meaning);
        fault->skip = skip;
        fault->name = hash(name);
        return true;
    }
    return false;
}

void fault_point(std::string_view name) {
    reach(hash(name));
}

void fault_point(std::string_view name, std::string_view part) {
    reach(hash(part, hash(name)));
}

}  // namespace nosigbus

#endif
