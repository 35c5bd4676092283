// Files and what is in them, as bytes in a std::string. Each function throws std::system_error where a system call
// fails.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <system_error>

#include "lib/unique_fd.h"

namespace nosigbus::test {

inline const std::size_t page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
inline constexpr std::size_t KiB = std::size_t{1} << 10U;
inline constexpr std::size_t MiB = std::size_t{1} << 20U;
inline constexpr std::size_t GiB = std::size_t{1} << 30U;

// Hands on the result of a system call; throws its errno for -1.
template <typename Result>
Result must(Result result, const char* call) {
    if (result == (Result)(-1)) throw std::system_error(errno, std::generic_category(), call);
    return result;
}

UniqueFd open_file(const std::string& path, int flags, mode_t mode = 0644);

// Makes `path`, which must not exist, with `content`; open for reading and writing.
UniqueFd make_file(const std::string& path, const std::string& content = {});

// Bytes to be found at `offset`, none of them zero and no two pages alike; another `salt` makes other bytes.
std::string pattern(std::size_t offset, std::size_t length, unsigned salt = 0);

void write_at(int fd, std::size_t offset, const std::string& bytes);
void resize(int fd, std::size_t size);
void punch(int fd, std::size_t offset, std::size_t length);

// Everything from the start to where reads end; to the real size, where the kernel lets reads of a view go on
// (kernel.h).
std::string read_all(int fd);
std::string read_all(const std::string& path);

struct stat status(int fd);
struct stat status(const std::string& path);
std::size_t size_of(int fd);
std::size_t size_of(const std::string& path);

// The bytes, followed by zeros up to `length`.
std::string padded(std::string bytes, std::size_t length);

// Where two byte strings differ, in words; empty where they do not.
std::string difference(const std::string& got, const std::string& wanted);

// A result as text: the number, or the name of the error. What the parity of two directories is compared by.
std::string answer(long result);

}  // namespace nosigbus::test
