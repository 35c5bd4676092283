#include "tests/mount/fd_views.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <stdexcept>
#include <vector>

#include "tests/mount/mapping.h"
#include "tests/mount/process.h"

namespace nosigbus::test {

std::string fd_name(const Directories& mount, const std::string& number) {
    return mount.view(NOSIGBUS_FD_DIRECTORY "/" + number);
}

std::string fd_name(const Directories& mount, int fd) {
    return fd_name(mount, std::to_string(fd));
}

UniqueFd fd_view(const Directories& mount, int fd, int flags) {
    return open_file(fd_name(mount, fd), flags);
}

std::string opened(const std::string& path, int flags) {
    const UniqueFd file(::open(path.c_str(), flags | O_CLOEXEC, 0600));
    return file ? "0" : answer(-1);
}

UniqueFd same_file(int fd, int flags) {
    return open_file(fmt::format("/proc/self/fd/{}", fd), flags);
}

UniqueFd memfd(const std::string& content, unsigned flags) {
    UniqueFd file(must(::memfd_create("passed", flags | MFD_CLOEXEC), "memfd_create"));
    write_at(file.get(), 0, content);
    return file;
}

UniqueFd unlinked_file(const std::string& directory, const std::string& content) {
    const std::string path = directory + "/unlinked";
    UniqueFd file = make_file(path, content);
    must(::unlink(path.c_str()), "unlink");
    return file;
}

UniqueFd tmpfile(const std::string& directory, const std::string& content) {
    UniqueFd file = open_file(directory, O_TMPFILE | O_RDWR, 0600);
    write_at(file.get(), 0, content);
    return file;
}

Ext4::Ext4(const Directories& directories) : path_(directories.root() + "/ext4") {
    const std::string image = directories.plain() + "/ext4.image";
    resize(make_file(image).get(), 8 * MiB);
    must(::mkdir(path_.c_str(), 0755), "mkdir");
    const std::vector<std::vector<std::string>> commands = {{"/sbin/mkfs.ext4", "-q", "-F", image},
                                                            {"mount", "-o", "loop", image, path_}};
    for (const auto& command : commands) {
        const Run made = run(command);
        if (made.ending != "exit 0") throw std::runtime_error(command[0] + ": " + made.errors);
    }
}

nosigbus_sizes sizes_of(int view) {
    nosigbus_sizes sizes{};
    must(::ioctl(view, NOSIGBUS_IOC_SIZES, &sizes), "NOSIGBUS_IOC_SIZES");
    return sizes;
}

std::string sync_range(int view, std::uint64_t offset, std::uint64_t length) {
    const nosigbus_range range = {.offset = offset, .length = length};
    return answer(::ioctl(view, NOSIGBUS_IOC_SYNC, &range));
}

bool shows(int view, const std::string& content) {
    const std::size_t length = sizes_of(view).view_size;
    return read_all(view) == content && Mapping(view, length).bytes() == padded(content, length);
}

}  // namespace nosigbus::test
