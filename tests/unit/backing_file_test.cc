#include "lib/backing_file.h"

#include <doctest/doctest.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <system_error>
#include <thread>

#include "tests/unit/temporary.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

std::string view_of(int fd, std::size_t size, off_t offset, int* error = nullptr) {
    std::string buffer(size, '?');
    const PaddedRead read = read_padded(fd, std::as_writable_bytes(std::span(buffer)), offset);
    if (error != nullptr) *error = read.error;
    return buffer;
}

std::size_t store(int fd, const std::string& bytes, off_t offset) {
    return store_within(fd, std::as_bytes(std::span(bytes)), offset);
}

std::string zeros(std::size_t count) {
    return std::string(count, '\0');
}

}  // namespace

TEST_CASE("a load shows the file's bytes, then zeros") {
    const TemporaryDirectory directory;
    const UniqueFd file = make_file(directory.file("a"), "hello");
    CHECK(view_of(file.get(), 8, 0) == "hello" + zeros(3));
    CHECK(view_of(file.get(), 4, 3) == "lo" + zeros(2));
    CHECK(view_of(file.get(), 4, 5) == zeros(4));
    CHECK(view_of(file.get(), 4, off_t{1} << 40) == zeros(4));
}

TEST_CASE("in a file of more than 4 GiB bytes are read and stored as in a small one") {
    const TemporaryDirectory directory;
    const UniqueFd file = make_file(directory.file("a"));
    constexpr off_t large = off_t{1} << 32;
    for (const off_t size : {large, large + 3}) {
        CAPTURE(size);
        REQUIRE(::ftruncate(file.get(), size) == 0);
        for (const off_t offset : {off_t{0}, off_t{3}, size - 5}) {
            CAPTURE(offset);
            CHECK(store(file.get(), "hello", offset) == 5);
            CHECK(view_of(file.get(), 5, offset) == "hello");
        }
        CHECK(store(file.get(), "hello", size - 2) == 2);
        CHECK(view_of(file.get(), 5, size - 2) == "he" + zeros(3));
    }
}

TEST_CASE("what cannot be read is zeros, and why is said") {
    const TemporaryDirectory directory;
    make_file(directory.file("a"), "hello");
    const UniqueFd unreadable = sys::open_at(AT_FDCWD, directory.file("a").c_str(), O_WRONLY);
    int error = 0;
    CHECK(view_of(unreadable.get(), 8, 0, &error) == zeros(8));
    CHECK(error == EBADF);
    CHECK(view_of(-1, 8, 0, &error) == zeros(8));
    CHECK(error == EBADF);
}

TEST_CASE("a read that fails half way says so, and what was read stays") {
    // Our own memory is a file that has a place which cannot be read: pread(2) stops there, then says EIO.
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    auto* const memory =
        static_cast<char*>(::mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    REQUIRE(memory != MAP_FAILED);
    REQUIRE(::munmap(memory + page, page) == 0);
    std::fill_n(memory, page, 'x');
    const UniqueFd file = sys::open_at(AT_FDCWD, "/proc/self/mem", O_RDONLY);
    int error = 0;
    const auto offset = static_cast<off_t>(reinterpret_cast<std::uintptr_t>(memory));
    CHECK(view_of(file.get(), 2 * page, offset, &error) == std::string(page, 'x') + zeros(page));
    CHECK(error == EIO);
    CHECK(view_of(file.get(), page, offset, &error) == std::string(page, 'x'));
    CHECK(error == 0);
    REQUIRE(::munmap(memory, page) == 0);
}

TEST_CASE("a store inside the file reaches it, a store past its end never grows it") {
    const TemporaryDirectory directory;
    const UniqueFd file = make_file(directory.file("a"), std::string(5000, 'x'));
    CHECK(store(file.get(), std::string(4096, 'y'), 4096) == 904);
    CHECK(content_of(file.get()) == std::string(4096, 'x') + std::string(904, 'y'));
    CHECK(store(file.get(), "zz", 5000) == 0);
    CHECK(store(file.get(), "zz", 1 << 30) == 0);
    CHECK(store(file.get(), "zz", 4999) == 1);
    CHECK(content_of(file.get()) == std::string(4096, 'x') + std::string(903, 'y') + "z");
}

TEST_CASE("a store through a descriptor that cannot be mapped is clipped as well") {
    const TemporaryDirectory directory;
    const UniqueFd file = make_file(directory.file("a"), "hello");
    const UniqueFd write_only = sys::open_at(AT_FDCWD, directory.file("a").c_str(), O_WRONLY);
    CHECK(store(write_only.get(), "HELLOworld", 0) == 5);
    CHECK(store(write_only.get(), "world", 5) == 0);
    CHECK(content_of(file.get()) == "HELLO");
}

TEST_CASE("a store into a file that cannot be written says why") {
    const TemporaryDirectory directory;
    make_file(directory.file("a"), "hello");
    const UniqueFd read_only = sys::open_at(AT_FDCWD, directory.file("a").c_str(), O_RDONLY);
    CHECK_THROWS_AS(store(read_only.get(), "x", 0), std::system_error);
}

TEST_CASE("a store never grows a file that shrinks at that moment") {
    const UniqueFd file(sys::check(::memfd_create("shrinking", MFD_CLOEXEC), "memfd_create"));
    constexpr off_t large = 1 << 20;
    const std::string bytes(large, 'x');
    std::atomic<bool> stop{false};
    std::thread storing([&] {
        while (!stop) store(file.get(), bytes, 0);
    });
    int grown = 0;
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(500);
    while (std::chrono::steady_clock::now() < end) {
        sys::check(::ftruncate(file.get(), large), "ftruncate");
        sys::check(::ftruncate(file.get(), 4096), "ftruncate");
        for (int look = 0; look < 20; ++look) grown += sys::file_size(file.get()) > 4096 ? 1 : 0;
    }
    stop = true;
    storing.join();
    CHECK(grown == 0);
}
