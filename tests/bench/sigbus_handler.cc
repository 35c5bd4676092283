#include "tests/bench/sigbus_handler.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csetjmp>

#include "tests/bench/memory.h"
#include "tests/mount/files.h"
#include "tests/mount/plain_access.h"

namespace nosigbus::bench {

namespace {

// What the handler is to do, of the one thread there is: to leave by a jump, or to map zeros in this range.
sigjmp_buf* volatile recovery = nullptr;
volatile std::uintptr_t zeros_from = 0;
volatile std::uintptr_t zeros_to = 0;
volatile std::size_t faults = 0;
std::size_t page_size = 0;  // the handler may not ask

// By the bare system call: a sanitizer's mmap is nothing for a signal handler.
bool map_zeros(std::uintptr_t at) {
    const long mapped = ::syscall(SYS_mmap, at & ~(page_size - 1), page_size, PROT_READ,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    return mapped != -1;
}

NOSIGBUS_PLAIN_ACCESS void on_sigbus(int signal, siginfo_t* info, void* /*context*/) {
    if (recovery != nullptr) siglongjmp(*recovery, 1);
    const auto at = reinterpret_cast<std::uintptr_t>(info->si_addr);
    if (at >= zeros_from && at < zeros_to && map_zeros(at)) {
        faults = faults + 1;
        return;
    }
    ::signal(signal, SIG_DFL);  // not ours: the load is tried again, and kills
}

}  // namespace

SigbusHandler::SigbusHandler() {
    page_size = test::page;
    struct sigaction action {};
    action.sa_sigaction = on_sigbus;
    action.sa_flags = SA_SIGINFO;
    test::must(::sigaction(SIGBUS, &action, &before_), "sigaction");
}

SigbusHandler::~SigbusHandler() {
    ::sigaction(SIGBUS, &before_, nullptr);
}

NOSIGBUS_PLAIN_ACCESS std::optional<std::uint64_t> SigbusHandler::sum_or_nothing(std::span<const std::byte> bytes) {
    sigjmp_buf here;
    if (sigsetjmp(here, 1) != 0) {  // with the signal mask: the jump leaves the handler without a return
        recovery = nullptr;
        return std::nullopt;
    }
    recovery = &here;
    const std::uint64_t sum = sum_of_words(bytes);
    recovery = nullptr;
    return sum;
}

SigbusHandler::SumAndFaults SigbusHandler::sum_over_zeros(std::span<const std::byte> bytes) {
    faults = 0;
    zeros_from = reinterpret_cast<std::uintptr_t>(bytes.data());
    zeros_to = zeros_from + bytes.size();
    const std::uint64_t sum = sum_of_words(bytes);
    zeros_to = 0;
    return {sum, faults};
}

}  // namespace nosigbus::bench
