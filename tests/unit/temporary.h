// Files for one test case.
#pragma once

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "lib/syscalls.h"
#include "lib/unique_fd.h"

namespace nosigbus::test {

class TemporaryDirectory {
  public:
    TemporaryDirectory() {
        std::string name = std::filesystem::temp_directory_path() / "nosigbus-unit-XXXXXX";
        if (::mkdtemp(name.data()) == nullptr) sys::fail(errno, "mkdtemp");
        path_ = name;
    }
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
    ~TemporaryDirectory() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }

    [[nodiscard]] const std::string& path() const { return path_; }
    [[nodiscard]] std::string file(const std::string& name) const { return path_ + '/' + name; }

  private:
    std::string path_;
};

// A new file with `content`, open for reading and writing.
inline UniqueFd make_file(const std::string& path, std::string_view content = {}) {
    UniqueFd file = sys::open_at(AT_FDCWD, path.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
    if (!content.empty()) sys::write_at(file.get(), std::as_bytes(std::span(content)), 0);
    return file;
}

inline std::string content_of(int fd) {
    std::string content(static_cast<std::size_t>(sys::file_size(fd)), '\0');
    sys::read_at(fd, std::as_writable_bytes(std::span(content)), 0);
    return content;
}

}  // namespace nosigbus::test
