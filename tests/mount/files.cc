#include "tests/mount/files.h"

#include <fmt/format.h>
#include <sys/xattr.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <vector>

#include "tests/mount/kernel.h"

namespace nosigbus::test {

UniqueFd open_file(const std::string& path, int flags, mode_t mode) {
    const int fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
    if (fd < 0) throw std::system_error(errno, std::generic_category(), "open " + path);
    return UniqueFd(fd);
}

UniqueFd make_file(const std::string& path, const std::string& content) {
    UniqueFd file = open_file(path, O_RDWR | O_CREAT | O_EXCL);
    write_at(file.get(), 0, content);
    return file;
}

std::string pattern(std::size_t offset, std::size_t length, unsigned salt) {
    std::string bytes(length, '\0');
    for (std::size_t i = 0; i < length; ++i) {
        const std::size_t at = offset + i;
        bytes[i] = static_cast<char>(1 + (at * 7 + at / page * 13 + salt * 101UL) % 251);
    }
    return bytes;
}

void write_at(int fd, std::size_t offset, const std::string& bytes) {
    for (std::size_t done = 0; done < bytes.size();) {
        done += static_cast<std::size_t>(
            must(::pwrite(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done)), "pwrite"));
    }
}

void resize(int fd, std::size_t size) {
    must(::ftruncate(fd, static_cast<off_t>(size)), "ftruncate");
}

void punch(int fd, std::size_t offset, std::size_t length) {
    must(::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                     static_cast<off_t>(length)),
         "fallocate");
}

namespace {

// Where the content of `fd` ends, if it is a view and reads do not tell.
std::optional<std::size_t> untold_end(int fd) {
    if (kernel_maps_direct_files()) return std::nullopt;
    std::array<char, 32> text{};
    if (::fgetxattr(fd, "user.nosigbus.real_size", text.data(), text.size() - 1) < 0) return std::nullopt;
    return std::stoull(text.data());
}

}  // namespace

std::string read_all(int fd) {
    std::string bytes;
    const auto end = untold_end(fd);
    std::vector<char> buffer(MiB);
    for (;;) {
        const std::size_t wanted = end ? std::min(buffer.size(), *end - bytes.size()) : buffer.size();
        const auto got = must(::pread(fd, buffer.data(), wanted, static_cast<off_t>(bytes.size())), "pread");
        if (got == 0) return bytes;
        bytes.append(buffer.data(), static_cast<std::size_t>(got));
        if (bytes.size() > 2 * GiB) throw std::runtime_error("a file of which reads never end");
    }
}

std::string read_all(const std::string& path) {
    return read_all(open_file(path, O_RDONLY).get());
}

struct stat status(int fd) {
    struct stat found {};
    must(::fstat(fd, &found), "fstat");
    return found;
}

struct stat status(const std::string& path) {
    struct stat found {};
    must(::lstat(path.c_str(), &found), "lstat");
    return found;
}

std::size_t size_of(int fd) {
    return static_cast<std::size_t>(status(fd).st_size);
}

std::size_t size_of(const std::string& path) {
    return static_cast<std::size_t>(status(path).st_size);
}

std::string padded(std::string bytes, std::size_t length) {
    bytes.resize(length, '\0');
    return bytes;
}

std::string difference(const std::string& got, const std::string& wanted) {
    if (got == wanted) return {};
    const auto [here, there] = std::mismatch(got.begin(), got.end(), wanted.begin(), wanted.end());
    const auto byte = [](const std::string& bytes, auto at) {
        return at == bytes.end() ? std::string("the end") : fmt::format("{:#04x}", static_cast<unsigned char>(*at));
    };
    return fmt::format("at {} of {}: {}, where {} of {} should be", here - got.begin(), got.size(), byte(got, here),
                       byte(wanted, there), wanted.size());
}

std::string answer(long result) {
    return result == -1 ? ::strerrorname_np(errno) : std::to_string(result);
}

}  // namespace nosigbus::test
