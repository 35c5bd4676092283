#include "lib/syscalls.h"

#include <doctest/doctest.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>

#include "tests/unit/temporary.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

// As the kernel takes it on every machine, whatever time_t is.
struct LongTime {
    std::int64_t seconds;
    std::int64_t nanoseconds;
};

void set_times(int fd, LongTime time) {
#ifdef SYS_utimensat_time64
    constexpr long number = SYS_utimensat_time64;
#else
    constexpr long number = SYS_utimensat;
#endif
    const std::array<LongTime, 2> times = {time, time};
    REQUIRE(::syscall(number, fd, nullptr, times.data(), 0) == 0);
}

}  // namespace

TEST_CASE("a file is looked at whatever its owner makes of its times") {
    const TemporaryDirectory directory;
    const UniqueFd file = make_file(directory.file("a"), "hello");
    const UniqueFd path = sys::open_at(AT_FDCWD, directory.file("a").c_str(), O_PATH);
    constexpr std::int64_t latest = std::numeric_limits<std::time_t>::max();
    for (const std::int64_t seconds : {std::int64_t{0}, std::int64_t{1} << 30, std::int64_t{5'000'000'000}}) {
        CAPTURE(seconds);
        set_times(file.get(), {seconds, 7});
        for (const int fd : {file.get(), path.get()}) {
            for (const int flags : {0, AT_STATX_DONT_SYNC}) {
                struct stat found {};
                REQUIRE(sys::look(fd, found, flags));
                CHECK(found.st_size == 5);
                CHECK(S_ISREG(found.st_mode));
                CHECK(found.st_mtim.tv_sec == std::min(seconds, latest));
                CHECK(found.st_mtim.tv_nsec == 7);
            }
            CHECK(sys::file_size(fd) == 5);
        }
    }
    struct stat none {};
    CHECK(!sys::look(-1, none));
    CHECK(errno == EBADF);
}
