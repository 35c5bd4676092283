#include "tests/mount/loads.h"

#include <csetjmp>
#include <csignal>
#include <cstdlib>

#include "tests/mount/files.h"
#include "tests/mount/plain_access.h"

namespace nosigbus::test {

namespace {

// Where this thread goes on after a SIGBUS, while it expects one.
thread_local sigjmp_buf* recovery = nullptr;

void on_sigbus(int signal) {
    if (recovery != nullptr) siglongjmp(*recovery, 1);
    ::signal(signal, SIG_DFL);  // not ours: the access is tried again, and kills
}

void install_handler() {
    static const bool installed = [] {
        struct sigaction action {};
        action.sa_handler = on_sigbus;
        return ::sigaction(SIGBUS, &action, nullptr) == 0;
    }();
    if (!installed) std::abort();
}

using Step = void (*)(volatile unsigned char* place, char* bytes);

// Takes `step` for each `stride`-th byte of `place`, and counts until one raises SIGBUS.
NOSIGBUS_PLAIN_ACCESS std::size_t count_until_fault(volatile unsigned char* place, char* bytes, std::size_t count,
                                                    std::size_t stride, Step step) {
    install_handler();
    volatile std::size_t done = 0;
    sigjmp_buf here;
    if (sigsetjmp(here, 1) == 0) {  // with the signal mask: the jump leaves the handler without a return
        recovery = &here;
        for (std::size_t i = 0; i < count; ++i) {
            step(place + i * stride, bytes + i);
            done = i + 1;
        }
    }
    recovery = nullptr;
    return done;
}

NOSIGBUS_PLAIN_ACCESS void load_byte(volatile unsigned char* place, char* byte) {
    *byte = static_cast<char>(*place);
}

NOSIGBUS_PLAIN_ACCESS void store_byte(volatile unsigned char* place, char* byte) {
    *place = static_cast<unsigned char>(*byte);
}

volatile unsigned char* loadable(const std::byte* from) {
    return reinterpret_cast<volatile unsigned char*>(const_cast<std::byte*>(from));
}

}  // namespace

std::string load(const std::byte* from, std::size_t length) {
    std::string bytes(length, '\0');
    bytes.resize(count_until_fault(loadable(from), bytes.data(), length, 1, load_byte));
    return bytes;
}

std::size_t touch_pages(const std::byte* from, std::size_t length) {
    std::string bytes(length / page, '\0');
    return count_until_fault(loadable(from), bytes.data(), bytes.size(), page, load_byte);
}

std::size_t store(std::byte* to, const std::string& bytes) {
    return count_until_fault(loadable(to), const_cast<char*>(bytes.data()), bytes.size(), 1, store_byte);
}

}  // namespace nosigbus::test
