#include "tests/mount/changes.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cstdio>
#include <filesystem>
#include <stdexcept>

#include "tests/mount/aio_write.h"
#include "tests/mount/files.h"
#include "tests/mount/mapping.h"

namespace nosigbus::test {

namespace {

std::size_t size_before() {
    return changed_pages * page + 100;
}

// Opens the inode again, also where it has no name any more.
UniqueFd reopened(const Target& target, int flags) {
    return open_file(fmt::format("/proc/self/fd/{}", target.fd), flags);
}

const Change table[] = {
    {"shrinks within a page", [](const Target& file) { resize(file.fd, 2 * page + 10); }},
    {"shrinks to a page's end", [](const Target& file) { resize(file.fd, 3 * page); }},
    {"shrinks to nothing", [](const Target& file) { resize(file.fd, 0); }},
    {"shrinks by name", [](const Target& file) { must(::truncate(file.path.c_str(), 1), "truncate"); }, true},
    {"is extended within its last page", [](const Target& file) { resize(file.fd, size_before() + 50); }},
    {"is extended", [](const Target& file) { resize(file.fd, 9 * page + 5); }},
    {"is extended by fallocate",
     [](const Target& file) { must(::fallocate(file.fd, 0, 0, 9 * static_cast<off_t>(page)), "fallocate"); }},
    {"regrows after a shrink",
     [](const Target& file) {
         resize(file.fd, 100);
         resize(file.fd, size_before());
     }},
    {"shrinks and is written anew",
     [](const Target& file) {
         resize(file.fd, 0);
         write_at(file.fd, 0, pattern(0, 4 * page + 7, 1));
     },
     false, false, true},
    {"is written", [](const Target& file) { write_at(file.fd, page - 7, pattern(0, 2 * page, 1)); }, false, false,
     true},
    {"gets one new byte", [](const Target& file) { write_at(file.fd, 2 * page + 77, "\x01"); }, false, false, true},
    {"is written past its end", [](const Target& file) { write_at(file.fd, 8 * page + 9, pattern(0, page, 1)); }, false,
     false, true},
    {"is appended to",
     [](const Target& file) {
         const std::string more = pattern(0, 3 * page, 1);
         must(::write(reopened(file, O_WRONLY | O_APPEND).get(), more.data(), more.size()), "write");
     },
     false, false, true},
    {"loses whole pages to a hole", [](const Target& file) { punch(file.fd, page, 2 * page); }},
    {"loses parts of pages to a hole", [](const Target& file) { punch(file.fd, page / 2, 2 * page); }},
    {"loses everything to a hole", [](const Target& file) { punch(file.fd, 0, mapped_pages * page); }},
    {"loses pages to MADV_REMOVE",
     [](const Target& file) {
         const Mapping mapping(file.fd, changed_pages * page, PROT_READ | PROT_WRITE);
         must(::madvise(mapping.data() + page, 2 * page, MADV_REMOVE), "madvise");
     }},
    {"is stored to through a mapping of it",
     [](const Target& file) {
         const Mapping mapping(file.fd, changed_pages * page, PROT_READ | PROT_WRITE);
         const std::string bytes = pattern(0, 3 * page, 1);
         if (mapping.store(page - 7, bytes) != bytes.size()) throw std::runtime_error("the store faulted");
         must(mapping.sync(), "msync");
     },
     false, true},
    {"is written by libaio", [](const Target& file) { aio_write(file.fd, page - 7, pattern(0, 2 * page, 1)); }, false,
     true, true},
    {"is written past its end by libaio",
     [](const Target& file) { aio_write(file.fd, 5 * page + 9, pattern(0, 3 * page, 1)); }, false, true, true},
    {"is opened with O_TRUNC", [](const Target& file) { reopened(file, O_WRONLY | O_TRUNC); }},
    {"is opened with O_TRUNC and written",
     [](const Target& file) { write_at(reopened(file, O_WRONLY | O_TRUNC).get(), 0, pattern(0, page + 1, 1)); }, false,
     false, true},
    {"is truncated to the size it has", [](const Target& file) { resize(file.fd, size_before()); }},
    {"is unlinked", [](const Target& file) { must(::unlink(file.path.c_str()), "unlink"); }, true},
    {"is unlinked and then shrinks",
     [](const Target& file) {
         must(::unlink(file.path.c_str()), "unlink");
         resize(file.fd, page);
     },
     true},
    {"is unlinked and then written",
     [](const Target& file) {
         must(::unlink(file.path.c_str()), "unlink");
         write_at(file.fd, 0, pattern(0, 8 * page, 1));
     },
     true, false, true},
    {"is replaced by rename",
     [](const Target& file) {
         make_file(file.path + ".new", pattern(0, 2 * page, 1));
         must(std::rename((file.path + ".new").c_str(), file.path.c_str()), "rename");
     },
     true},
    {"is replaced by rename and then shrinks",
     [](const Target& file) {
         make_file(file.path + ".new", pattern(0, 2 * page, 1));
         must(std::rename((file.path + ".new").c_str(), file.path.c_str()), "rename");
         resize(file.fd, 5);
     },
     true},
    {"is renamed and then shrinks",
     [](const Target& file) {
         must(std::rename(file.path.c_str(), (file.path + ".moved").c_str()), "rename");
         resize(file.fd, 5);
     },
     true},
};

}  // namespace

std::string content_before() {
    return pattern(0, size_before());
}

std::span<const Change> changes() {
    return table;
}

Outcome native_outcome(const Change& change, const std::string& directory) {
    const std::string path = directory + "/" + change.name;
    const UniqueFd file = make_file(path, content_before());
    change.make({file.get(), path});
    Outcome outcome{.content = read_all(file.get()), .named = std::nullopt};
    if (std::filesystem::exists(path)) outcome.named = read_all(path);
    return outcome;
}

}  // namespace nosigbus::test
