// A program that reads a file it does not own. `nosigbus_reader FILE OFFSET` maps FILE and loads the byte at OFFSET;
// waits for a line on standard input; loads the byte again. In between, the owner may shrink the file.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

int fail(const char* what, const char* name) {
    std::fprintf(stderr, "nosigbus_reader: %s %s: %s\n", what, name, std::strerror(errno));
    return EXIT_FAILURE;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) {
        std::fprintf(stderr, "usage: nosigbus_reader FILE OFFSET\n");
        return EXIT_FAILURE;
    }
    const char* const name = argv[1];
    const std::size_t offset = std::strtoul(argv[2], nullptr, 10);

    // AddressSanitizer would catch the signal and exit; and nobody wants a core file of this.
    std::signal(SIGBUS, SIG_DFL);
    const rlimit none{};
    ::setrlimit(RLIMIT_CORE, &none);

    const int file = ::open(name, O_RDONLY | O_CLOEXEC);
    if (file < 0) return fail("cannot open", name);
    void* const mapping = ::mmap(nullptr, offset + 1, PROT_READ, MAP_SHARED, file, 0);
    if (mapping == MAP_FAILED) return fail("cannot map", name);
    ::close(file);
    const volatile char& byte = static_cast<const char*>(mapping)[offset];

    std::printf("%d\n", byte);
    std::fflush(stdout);
    if (std::getchar() == EOF) return EXIT_FAILURE;
    std::printf("%d\n", byte);
    return EXIT_SUCCESS;
}
