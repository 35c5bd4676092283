// read(2), write(2) and their kin: positions, flags for one call, limits, and what goes through pipes.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

#include <climits>
#include <csignal>

#include "tests/mount/files.h"
#include "tests/mount/kernel.h"
#include "tests/mount/trials.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

#ifndef RWF_NOAPPEND
#define RWF_NOAPPEND 0x00000020
#endif

void prepare(const std::string& dir) {
    make_file(dir + "/file", pattern(0, 5000));
    make_file(dir + "/other", pattern(0, 9000, 1));
    for (const std::string name : {"/file", "/other"}) must(::chmod((dir + name).c_str(), 0666), "chmod");
}

UniqueFd file_of(const std::string& dir, int flags = O_RDWR) {
    return open_file(dir + "/file", flags);
}

std::string written(int fd, const std::string& bytes, long offset, int flags) {
    std::string copy = bytes;
    const iovec part = {copy.data(), copy.size()};
    return answer(::pwritev2(fd, &part, 1, offset, flags));
}

std::string read_by(int fd, std::size_t length, long offset, int flags) {
    const off_t from = offset == -1 ? ::lseek(fd, 0, SEEK_CUR) : offset;
    std::string bytes(to_read(fd, length, from), '\0');
    const iovec part = {bytes.data(), bytes.size()};
    const ssize_t got = ::preadv2(fd, &part, 1, offset, flags);
    if (got < 0) return answer(got);
    return fmt::format("{} {:x}", got, std::hash<std::string>()(bytes));
}

std::string position(int fd) {
    return "at " + std::to_string(::lseek(fd, 0, SEEK_CUR));
}

// A process whose files may not become longer than `limit`, and which is not killed for trying.
void limit_files(rlim_t limit) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limits = {limit, limit};
    must(::setrlimit(RLIMIT_FSIZE, &limits), "setrlimit");
}

}  // namespace

TEST_SUITE_BEGIN("posix");

TEST_CASE("reads and writes move the position, and those with an offset do not") {
    reads_end("what read(2) says past the end");
    const Parity parity(plain_like);
    const Trial trial = {
        "positions", prepare, [](const std::string& dir) {
            const UniqueFd file = file_of(dir);
            const UniqueFd same(::fcntl(file.get(), F_DUPFD_CLOEXEC, 0));
            const UniqueFd other = file_of(dir);
            std::string bytes(3000, '\0');
            const auto read = [&](std::size_t length) {
                const off_t from = ::lseek(file.get(), 0, SEEK_CUR);
                return answer(::read(file.get(), bytes.data(), to_read(file.get(), length, from)));
            };
            return in_turn({read(100),
                            position(same.get()),
                            position(other.get()),
                            read(3000),
                            read(3000),
                            read(3000),
                            position(file.get()),
                            answer(::pread(file.get(), bytes.data(), to_read(file.get(), 10, 4995), 4995)),
                            position(file.get()),
                            answer(::write(same.get(), "abc", 3)),
                            position(file.get()),
                            answer(::pwrite(file.get(), "x", 1, 9000)),
                            position(file.get()),
                            read(3000),
                            read(0),
                            answer(::lseek(file.get(), 20000, SEEK_SET)),
                            read(10),
                            answer(::write(file.get(), "y", 1)),
                            position(same.get()),
                            answer(::lseek(file.get(), -20001, SEEK_CUR)),
                            read(1)});
        }};
    for (const User& user : {root, stranger}) try_all(parity, user, {trial});
}

TEST_CASE("appending, and no longer") {
    const Parity parity(plain_like);
    const std::vector<Trial> trials = {
        {"O_APPEND set and taken back", prepare,
         [](const std::string& dir) {
             const UniqueFd file = file_of(dir);
             return in_turn({answer(::fcntl(file.get(), F_SETFL, O_APPEND)), answer(::write(file.get(), "abc", 3)),
                             answer(::pwrite(file.get(), "def", 3, 0)), answer(::fcntl(file.get(), F_SETFL, 0)),
                             answer(::pwrite(file.get(), "ghi", 3, 0))});
         }},
        {"RWF_NOAPPEND", prepare,
         [](const std::string& dir) {
             const UniqueFd file = file_of(dir, O_RDWR | O_APPEND);
             return in_turn({written(file.get(), "abc", 10, RWF_NOAPPEND), std::to_string(size_of(file.get())),
                             written(file.get(), "abc", 10, 0), std::to_string(size_of(file.get()))});
         }},
        {"appending by many at once", prepare,
         [](const std::string& dir) {
             std::vector<UniqueFd> files;
             for (int i = 0; i < 10; ++i) files.push_back(file_of(dir, O_WRONLY | O_APPEND));
             std::string said;
             for (int round = 0; round < 20; ++round) {
                 for (std::size_t i = 0; i < files.size(); ++i)
                     said += answer(::write(files[i].get(), "appended by one of many", i + 1)) + " ";
             }
             return said;
         }},
    };
    for (const User& user : {root, stranger}) try_all(parity, user, trials);
}

TEST_CASE("flags for one call") {
    reads_end("what preadv2(2) says past the end");
    const Parity parity(plain_like);
    std::vector<Trial> trials;
    for (const int flags : {0, RWF_HIPRI, RWF_DSYNC, RWF_SYNC, RWF_DSYNC | RWF_SYNC, 0x40000000}) {
        trials.push_back(
            {fmt::format("preadv2 and pwritev2 with flags {:x}", flags), prepare, [flags](const std::string& dir) {
                 const UniqueFd file = file_of(dir);
                 return in_turn({read_by(file.get(), 100, 10, flags), read_by(file.get(), 9000, 0, flags),
                                 read_by(file.get(), 10, 5000, flags), read_by(file.get(), 10, -1, flags),
                                 written(file.get(), "abc", 10, flags), written(file.get(), "abc", 6000, flags),
                                 written(file.get(), "abc", -1, flags), position(file.get()),
                                 read_by(file.get(), 10, -2, flags)});
             }});
    }
    for (const User& user : {root, stranger}) try_all(parity, user, trials);
}

TEST_CASE("vectors of every form") {
    const Parity parity(plain_like);
    const Trial trial = {"readv and writev", prepare, [](const std::string& dir) {
                             const UniqueFd file = file_of(dir);
                             std::string bytes = pattern(0, 200000, 4);
                             std::vector<iovec> parts;
                             for (std::size_t i = 0; i < IOV_MAX; ++i)
                                 parts.push_back({bytes.data() + i * 100, i % 100});
                             std::string said = answer(::writev(file.get(), parts.data(), IOV_MAX)) + " ";
                             said += answer(::pwritev(file.get(), parts.data(), IOV_MAX + 1, 0)) + " ";
                             said += answer(::pwritev(file.get(), parts.data(), 0, 0)) + " ";
                             const iovec bad[] = {{bytes.data(), 100}, {nullptr, 100}};
                             said += answer(::pwritev(file.get(), bad + 1, 1, 0)) + " ";
                             said += answer(::preadv(file.get(), bad + 1, 1, 0)) + " ";
                             const iovec long_one = {bytes.data(), static_cast<std::size_t>(-1)};
                             return said + answer(::pwritev(file.get(), &long_one, 1, 0));
                         }};
    for (const User& user : {root, stranger}) try_all(parity, user, {trial});
}

TEST_CASE("from where nothing can be loaded, and to where nothing can be stored") {
    // To a file that is opened cached nothing is written then (fuse_fill_write_pages).
    const bool writes_half = kernel_maps_direct_files();
    if (!writes_half) MESSAGE("left out, without FUSE_DIRECT_IO_ALLOW_MMAP: a write of what is there in part");
    const Parity parity(plain_like);
    const Trial trial = {
        "EFAULT", prepare, [writes_half](const std::string& dir) {
            const UniqueFd file = file_of(dir);
            // A page that is there, and one behind it that is not.
            auto* const pages = static_cast<char*>(
                must(::mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap"));
            must(::munmap(pages + page, page), "munmap");
            char* const nowhere = pages + page;
            char* const half_there = nowhere - 50;
            std::string said =
                in_turn({answer(::pread(file.get(), nowhere, 100, 0)), answer(::pwrite(file.get(), nowhere, 100, 0)),
                         answer(::pwrite(file.get(), nowhere, 0, 0)),
                         answer(::pwrite(file.get(), half_there, writes_half ? 100 : 50, 0)),
                         answer(::pread(file.get(), half_there, 100, 0))});
            ::munmap(pages, page);
            return said;
        }};
    for (const User& user : {root, stranger}) try_all(parity, user, {trial});
}

TEST_CASE("far out") {
    reads_end("what pread(2) says past the end");
    const Parity parity(plain_like);
    const Trial trial = {
        "large offsets", prepare, [](const std::string& dir) {
            const UniqueFd file = file_of(dir);
            std::string said;
            char byte = 0;
            for (const off_t offset : {off_t{1} << 31U, (off_t{1} << 32U) - 1, off_t{1} << 40U, off_t{1} << 62U}) {
                said +=
                    in_turn({answer(::pwrite(file.get(), "far", 3, offset)), std::to_string(status(file.get()).st_size),
                             answer(::pread(file.get(), &byte, 1, offset + 2)),
                             answer(::pread(file.get(), &byte, to_read(file.get(), 1, offset + 3), offset + 3)),
                             answer(::lseek(file.get(), offset - 10000, SEEK_DATA)), "\n"});
            }
            for (const off_t offset : {off_t{INT64_MAX}, off_t{INT64_MAX - 1}, off_t{-1}, off_t{INT64_MIN}})
                said += in_turn({answer(::pwrite(file.get(), "far", 3, offset)),
                                 answer(::pread(file.get(), &byte, to_read(file.get(), 1, offset), offset)), ""});
            return said + answer(::ftruncate(file.get(), 5000));
        }};
    for (const User& user : {root, stranger}) try_all(parity, user, {trial});
}

// How far a file may grow by O_APPEND, ftruncate and fallocate is another matter: docs/semantics.md, Limits.
TEST_CASE("writes with an offset are held to RLIMIT_FSIZE") {
    const Parity parity(plain_like);
    const Trial trial = {"limits", prepare, [](const std::string& dir) {
                             limit_files(8000);
                             const UniqueFd file = file_of(dir);
                             const std::string bytes = pattern(0, 5000, 5);
                             return in_turn({answer(::pwrite(file.get(), bytes.data(), 5000, 0)),
                                             answer(::pwrite(file.get(), bytes.data(), 5000, 5000)),
                                             answer(::pwrite(file.get(), bytes.data(), 1, 7999)),
                                             answer(::pwrite(file.get(), bytes.data(), 1, 8000)),
                                             answer(::pwrite(file.get(), bytes.data(), 0, 9000))});
                         }};
    for (const User& user : {root, stranger}) try_all(parity, user, {trial});
}

TEST_CASE("into a file through a pipe, and by sendfile") {
    const Parity parity(plain_like);
    const auto piped = [](const std::string& bytes) {
        int ends[2] = {-1, -1};
        must(::pipe2(ends, O_CLOEXEC), "pipe2");
        std::pair<UniqueFd, UniqueFd> both{UniqueFd(ends[0]), UniqueFd(ends[1])};
        must(::write(ends[1], bytes.data(), bytes.size()), "write");
        return both;
    };
    const std::vector<Trial> trials = {
        {"splice to the position", prepare,
         [&](const std::string& dir) {
             const UniqueFd file = file_of(dir);
             const auto [reader, writer] = piped(pattern(0, 9000, 6));
             return in_turn({answer(::splice(reader.get(), nullptr, file.get(), nullptr, 3000, 0)),
                             position(file.get()),
                             answer(::splice(reader.get(), nullptr, file.get(), nullptr, 6000, SPLICE_F_MOVE))});
         }},
        {"splice to an offset", prepare,
         [&](const std::string& dir) {
             const UniqueFd file = file_of(dir);
             const auto [reader, writer] = piped(pattern(0, 9000, 6));
             loff_t offset = 4000;
             return in_turn({answer(::splice(reader.get(), nullptr, file.get(), &offset, 9000, 0)),
                             std::to_string(offset), position(file.get())});
         }},
        {"splice to an appending file", prepare,
         [&](const std::string& dir) {
             const UniqueFd file = file_of(dir, O_WRONLY | O_APPEND);
             const auto [reader, writer] = piped(pattern(0, 9000, 6));
             return answer(::splice(reader.get(), nullptr, file.get(), nullptr, 9000, 0));
         }},
        {"sendfile from elsewhere", prepare,
         [&](const std::string& dir) {
             const UniqueFd file = file_of(dir);
             const UniqueFd elsewhere(must(::memfd_create("elsewhere", MFD_CLOEXEC), "memfd_create"));
             write_at(elsewhere.get(), 0, pattern(0, 70000, 7));
             off_t offset = 100;
             return in_turn({answer(::sendfile(file.get(), elsewhere.get(), &offset, 100000)), std::to_string(offset),
                             position(file.get())});
         }},
        {"splice from inside a file", prepare,
         [](const std::string& dir) {
             const UniqueFd file = file_of(dir);
             int ends[2] = {-1, -1};
             must(::pipe2(ends, O_CLOEXEC), "pipe2");
             const UniqueFd reader(ends[0]);
             const UniqueFd writer(ends[1]);
             loff_t offset = 1000;
             std::string said = answer(::splice(file.get(), &offset, writer.get(), nullptr, 3000, 0));
             std::string bytes(3000, '\0');
             said += " " + answer(::read(reader.get(), bytes.data(), bytes.size())) + " ";
             return said + difference(bytes, pattern(1000, 3000));
         }},
    };
    for (const User& user : {root, stranger}) try_all(parity, user, trials);
}

TEST_CASE("mappings that may not be") {
    const Parity parity(plain_like);
    std::vector<Trial> trials;
    for (const int flags : {O_RDONLY, O_WRONLY, O_RDWR, O_PATH}) {
        trials.push_back(
            {fmt::format("mmap of a file opened {:o}", flags), prepare, [flags](const std::string& dir) {
                 const UniqueFd file = file_of(dir, flags);
                 std::string said;
                 for (const int protection :
                      {PROT_NONE, PROT_READ, PROT_WRITE, PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC}) {
                     for (const int kind : {MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE,
                                            MAP_SHARED_VALIDATE | MAP_SYNC, MAP_SHARED_VALIDATE | 0x4000000, 0}) {
                         void* const mapped = ::mmap(nullptr, page, protection, kind, file.get(), 0);
                         said += mapped == MAP_FAILED ? answer(-1) : "0";
                         if (mapped != MAP_FAILED) {
                             for (const int later : {PROT_READ, PROT_WRITE, PROT_EXEC})
                                 said += "/" + answer(::mprotect(mapped, page, later));
                             ::munmap(mapped, page);
                         }
                         said += " ";
                     }
                     said += "\n";
                 }
                 said += ::mmap(nullptr, page, PROT_READ, MAP_SHARED, file.get(), 100) == MAP_FAILED ? answer(-1) : "0";
                 said += ::mmap(nullptr, 0, PROT_READ, MAP_SHARED, file.get(), 0) == MAP_FAILED ? answer(-1) : "0";
                 return said;
             }});
    }
    for (const User& user : {root, stranger}) try_all(parity, user, trials);
}

TEST_CASE("fcntl of files") {
    note_missing_direct_opens();
    const Parity parity(plain_like);
    const Trial trial = {
        "fcntl", prepare, [](const std::string& dir) {
            const UniqueFd file = file_of(dir);
            std::uint64_t hint = 2;
            return in_turn({answer(::fcntl(file.get(), F_SETFL, O_NONBLOCK | O_NOATIME)),
                            answer(::fcntl(file.get(), F_GETFL)),
                            answer(::fcntl(file.get(), F_SETFL, direct_for(dir + "/file"))),
                            answer(::fcntl(file.get(), F_SETFL, 0)), answer(::fcntl(file.get(), F_SET_RW_HINT, &hint)),
                            answer(::fcntl(file.get(), F_GET_RW_HINT, &hint)), std::to_string(hint),
                            answer(::fcntl(file.get(), F_GETLEASE)), answer(::fcntl(file.get(), 9999))});
        }};
    for (const User& user : {root, stranger}) try_all(parity, user, {trial});
}

TEST_SUITE_END();
