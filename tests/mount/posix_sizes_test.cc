// Sizes, holes and copies: truncate, fallocate, lseek and copy_file_range.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstdint>

#include "tests/mount/files.h"
#include "tests/mount/kernel.h"
#include "tests/mount/trials.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

std::string size_after(const std::string& said, const std::string& path) {
    struct stat found {};
    if (::stat(path.c_str(), &found) != 0) return said + " " + answer(-1);
    return fmt::format("{} size {} blocks {}", said, found.st_size, found.st_blocks);
}

// Data, a hole, data, a hole at the end.
void make_sparse(const std::string& path) {
    const UniqueFd file = make_file(path);
    write_at(file.get(), 0, pattern(0, 2 * page));
    write_at(file.get(), 5 * page, pattern(5 * page, page + 100));
    resize(file.get(), 20 * page);
    must(::chmod(path.c_str(), 0666), "chmod");
}

constexpr int unknown_mode = 0x1000;
const std::vector<std::pair<std::string, int>> modes = {
    {"grow", 0},
    {"keep", FALLOC_FL_KEEP_SIZE},
    {"punch", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE},
    {"punch without keep", FALLOC_FL_PUNCH_HOLE},
    {"zero", FALLOC_FL_ZERO_RANGE},
    {"zero and keep", FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE},
    {"collapse", FALLOC_FL_COLLAPSE_RANGE},
    {"insert", FALLOC_FL_INSERT_RANGE},
    {"unshare", FALLOC_FL_UNSHARE_RANGE},
    {"punch and zero", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE},
    {"unknown", unknown_mode}};

struct Range {
    off_t offset;
    off_t length;
};

const std::vector<Range> ranges = {{0, 100},       {0, 4096},
                                   {4096, 8192},   {5000, 3000},
                                   {0, 0},         {-1, 10},
                                   {10, -1},       {81919, 1},
                                   {81920, 1},     {81920, 4096},
                                   {100000, 5000}, {200000, 50000},
                                   {INT64_MAX, 1}, {INT64_MAX, INT64_MAX},
                                   {0, INT64_MAX}, {off_t{1} << 50U, 4096}};

struct Copy {
    std::string name;
    std::string from;
    std::string to;
    off_t from_offset;
    off_t to_offset;
    std::size_t length;
};

const std::vector<Copy> copies = {
    {"all", "one", "empty", 0, 0, 1 << 20},
    {"a part", "one", "two", 100, 5000, 3000},
    {"whole pages", "one", "two", 4096, 8192, 8192},
    {"past the end of the source", "one", "two", 80000, 0, 100000},
    {"from the end of the source", "one", "two", 20 * 4096, 0, 100},
    {"from behind the end of the source", "one", "two", 200000, 0, 100},
    {"to behind the end", "one", "two", 0, 200000, 5000},
    {"over a hole", "one", "two", 0, 0, 7 * 4096},
    {"nothing", "one", "two", 0, 0, 0},
    {"within a file", "one", "one", 0, 50000, 4000},
    {"within a file, side by side", "one", "one", 0, 4096, 4096},
    {"within a file, overlapping", "one", "one", 0, 2048, 4096},
    {"within a file, onto itself", "one", "one", 0, 0, 4096},
    {"within a file, to its end", "one", "one", 0, 20 * 4096, 9000},
    {"from before the start", "one", "two", -1, 0, 10},
    {"to before the start", "one", "two", 0, -1, 10},
    {"to the end of all offsets", "one", "two", 0, INT64_MAX, 10},
    {"many pages", "large", "empty", 0, 0, 250000},
    {"many pages within a file, up to where they are from", "large", "large", 0, 150000, 150000},
};

}  // namespace

TEST_SUITE_BEGIN("posix");

TEST_CASE("truncate and ftruncate") {
    const std::vector<off_t> sizes = {0,       1,    100,  4095, 4096,     4097, 1 << 20, (1 << 20) + 1,
                                      5000000, 5000, 5000, -1,   INT64_MIN};
    const Parity parity(plain_like);
    for (const User& user : all_users) {
        std::vector<Trial> trials;
        for (const mode_t mode : {0666U, 0444U, 0060U}) {
            const auto prepare = [mode](const std::string& dir) {
                make_file(dir + "/file", pattern(0, 10000));
                must(::chown((dir + "/file").c_str(), 0, shared_group), "chown");
                must(::chmod((dir + "/file").c_str(), mode), "chmod");
            };
            trials.push_back(
                {fmt::format("truncate of a file {:o}", mode), prepare, [&](const std::string& dir) {
                     std::string said;
                     for (const off_t size : sizes)
                         said += size_after(answer(::truncate((dir + "/file").c_str(), size)), dir + "/file") + "\n";
                     return said;
                 }});
            for (const int flags : {O_RDONLY, O_WRONLY, O_RDWR, O_WRONLY | O_APPEND, O_PATH}) {
                trials.push_back({fmt::format("ftruncate of a file {:o} opened {:o}", mode, flags), prepare,
                                  [&, flags](const std::string& dir) {
                                      const UniqueFd file = open_file(dir + "/file", flags);
                                      std::string said;
                                      for (const off_t size : sizes)
                                          said +=
                                              size_after(answer(::ftruncate(file.get(), size)), dir + "/file") + "\n";
                                      return said;
                                  }});
            }
        }
        try_all(parity, user, trials);
    }
}

TEST_CASE("truncation to very large sizes, and back") {
    const Parity parity(plain_like);
    const Trial trial = {"large", [](const std::string& dir) { make_sparse(dir + "/file"); },
                         [](const std::string& dir) {
                             const std::string path = dir + "/file";
                             std::string said;
                             for (const off_t size :
                                  {off_t{1} << 32U, off_t{1} << 40U, (off_t{1} << 62U), INT64_MAX - (off_t{1} << 33U)})
                                 said += size_after(answer(::truncate(path.c_str(), size)), path) + "\n";
                             return size_after(said + answer(::truncate(path.c_str(), 7)), path);
                         }};
    for (const User& user : {root, stranger}) try_all(parity, user, {trial});
}

TEST_CASE("truncate of every type of object") {
    const Parity parity(plain_like);
    std::vector<Trial> trials;
    for (const std::string& type : object_types) {
        trials.push_back({"truncate of a " + type,
                          [=](const std::string& dir) {
                              make_object(type, dir + "/object");
                              make_file(dir + "/other", "other");
                              must(::symlink("other", (dir + "/link to other").c_str()), "symlink");
                          },
                          [](const std::string& dir) {
                              return in_turn({answer(::truncate((dir + "/object").c_str(), 3)),
                                              answer(::truncate((dir + "/object").c_str(), -1)),
                                              answer(::truncate((dir + "/link to other").c_str(), 3))});
                          }});
    }
    for (const User& user : {root, stranger}) try_all(parity, user, trials);
}

TEST_CASE("fallocate in every mode") {
    const Parity parity(plain_like);
    std::vector<Trial> trials;
    for (const auto& [name, mode] : modes) {
        for (const Range& range : ranges) {
            trials.push_back({fmt::format("fallocate {} {}+{}", name, range.offset, range.length),
                              [](const std::string& dir) { make_sparse(dir + "/file"); },
                              [mode = mode, range](const std::string& dir) {
                                  const UniqueFd file = open_file(dir + "/file", O_RDWR);
                                  return answer(::fallocate(file.get(), mode, range.offset, range.length));
                              }});
        }
    }
    try_all(parity, root, trials);
}

TEST_CASE("fallocate of descriptors that are not for it, and posix_fallocate") {
    const Parity parity(plain_like);
    std::vector<Trial> trials;
    for (const std::string& type : object_types) {
        for (const int flags : {O_RDONLY, O_WRONLY, O_RDWR | O_APPEND, O_PATH}) {
            trials.push_back(
                {fmt::format("fallocate of a {} opened {:o}", type, flags),
                 [=](const std::string& dir) { make_object(type, dir + "/object"); },
                 [flags](const std::string& dir) {
                     const std::string path = dir + "/object";
                     const UniqueFd file(::open(path.c_str(), flags | O_NONBLOCK | O_CLOEXEC));
                     if (!file) return answer(-1);
                     std::string said;
                     for (const auto& [name, mode] : modes)
                         said += answer(::fallocate(file.get(), mode, 0, 8192)) + " ";
                     for (const Range& range : {Range{0, 3}, {10000, 10000}, {0, 0}, {-1, 1}, {0, INT64_MAX}})
                         said += std::to_string(::posix_fallocate(file.get(), range.offset, range.length)) + " ";
                     return said;
                 }});
        }
    }
    try_all(parity, root, trials);
}

TEST_CASE("SEEK_DATA and SEEK_HOLE") {
    reads_end("what read(2) says at the end");
    const Parity parity(plain_like);
    const auto sought = [](const std::string& path, int flags) {
        const UniqueFd file = open_file(path, flags);
        std::string said;
        for (std::size_t i = 0; i <= 21 * page; i += page / 2) {
            const auto offset = static_cast<off_t>(i);
            said += fmt::format("{}: ", offset) + answer(::lseek(file.get(), offset, SEEK_DATA)) + " ";
            said += answer(::lseek(file.get(), offset, SEEK_HOLE)) + " ";
            char byte = 0;
            const off_t stands = ::lseek(file.get(), 0, SEEK_CUR);
            said += answer(::read(file.get(), &byte, to_read(file.get(), 1, stands))) + "\n";
        }
        for (const off_t offset : {off_t{-1}, INT64_MIN, INT64_MAX}) {
            for (const int whence : {SEEK_SET, SEEK_CUR, SEEK_DATA, SEEK_HOLE, 5, 99, -1})
                said += answer(::lseek(file.get(), offset, whence)) + " ";
        }
        return said;
    };
    const std::vector<Trial> trials = {
        {"a sparse file", [](const std::string& dir) { make_sparse(dir + "/file"); },
         [&](const std::string& dir) { return sought(dir + "/file", O_RDONLY); }},
        {"opened for writing", [](const std::string& dir) { make_sparse(dir + "/file"); },
         [&](const std::string& dir) { return sought(dir + "/file", O_WRONLY); }},
        {"an empty file",
         [](const std::string& dir) {
             make_file(dir + "/file");
             must(::chmod((dir + "/file").c_str(), 0666), "chmod");
         },
         [&](const std::string& dir) { return sought(dir + "/file", O_RDWR); }},
        {"a hole from end to end",
         [](const std::string& dir) {
             resize(make_file(dir + "/file").get(), 5 * page);
             must(::chmod((dir + "/file").c_str(), 0666), "chmod");
         },
         [&](const std::string& dir) { return sought(dir + "/file", O_RDWR); }},
        {"allocated and never written",
         [](const std::string& dir) {
             const UniqueFd file = make_file(dir + "/file");
             must(::fallocate(file.get(), 0, 0, 30000), "fallocate");
             must(::fallocate(file.get(), FALLOC_FL_KEEP_SIZE, 30000, 30000), "fallocate");
             must(::chmod((dir + "/file").c_str(), 0666), "chmod");
         },
         [&](const std::string& dir) { return sought(dir + "/file", O_RDWR); }},
    };
    for (const User& user : {root, stranger}) try_all(parity, user, trials);
}

TEST_CASE("copy_file_range") {
    const auto prepare = [](const std::string& dir) {
        make_sparse(dir + "/one");
        make_file(dir + "/two", pattern(0, 30000, 2));
        make_file(dir + "/empty");
        make_file(dir + "/large", pattern(0, 300000, 3));
        for (const std::string name : {"/two", "/empty", "/large"}) must(::chmod((dir + name).c_str(), 0666), "chmod");
    };
    const Parity parity(plain_like);
    std::vector<Trial> trials;
    for (const Copy& copy : copies) {
        trials.push_back(
            {"copy with offsets: " + copy.name, prepare, [&copy](const std::string& dir) {
                 const UniqueFd from = open_file(dir + "/" + copy.from, O_RDONLY);
                 const UniqueFd to = open_file(dir + "/" + copy.to, O_RDWR);
                 off_t from_offset = copy.from_offset;
                 off_t to_offset = copy.to_offset;
                 std::string said =
                     answer(::copy_file_range(from.get(), &from_offset, to.get(), &to_offset, copy.length, 0));
                 return said + fmt::format(" {} {} {} {}", from_offset, to_offset, ::lseek(from.get(), 0, SEEK_CUR),
                                           ::lseek(to.get(), 0, SEEK_CUR));
             }});
        if (copy.from_offset < 0 || copy.to_offset < 0) continue;
        trials.push_back({"copy with positions: " + copy.name, prepare, [&copy](const std::string& dir) {
                              const UniqueFd from = open_file(dir + "/" + copy.from, O_RDONLY);
                              const UniqueFd to = open_file(dir + "/" + copy.to, O_RDWR);
                              must(::lseek(from.get(), copy.from_offset, SEEK_SET), "lseek");
                              std::string said = answer(::lseek(to.get(), copy.to_offset, SEEK_SET)) + " ";
                              said += answer(::copy_file_range(from.get(), nullptr, to.get(), nullptr, copy.length, 0));
                              return said + fmt::format(" {} {}", ::lseek(from.get(), 0, SEEK_CUR),
                                                        ::lseek(to.get(), 0, SEEK_CUR));
                          }});
    }
    for (const User& user : {root, stranger}) try_all(parity, user, trials);
}

TEST_CASE("copy_file_range of descriptors that are not for it") {
    const Parity parity(plain_like);
    std::vector<Trial> trials;
    for (const std::string& type : object_types) {
        if (type == "link" || type == "socket" || type == "block device") continue;  // cannot be opened
        trials.push_back(
            {"copy from and to a " + type,
             [=](const std::string& dir) {
                 make_object(type, dir + "/object");
                 make_file(dir + "/file", pattern(0, 5000));
             },
             [=](const std::string& dir) {
                 const UniqueFd object =
                     open_file(dir + "/object", (type == "directory" ? O_RDONLY : O_RDWR) | O_NONBLOCK);
                 const UniqueFd file = open_file(dir + "/file", O_RDWR);
                 std::string said = answer(::copy_file_range(object.get(), nullptr, file.get(), nullptr, 100, 0));
                 return said + " " + answer(::copy_file_range(file.get(), nullptr, object.get(), nullptr, 100, 0));
             }});
    }
    trials.push_back({"copy by wrong descriptors",
                      [](const std::string& dir) {
                          make_file(dir + "/one", pattern(0, 5000));
                          make_file(dir + "/two", pattern(0, 5000, 1));
                      },
                      [](const std::string& dir) {
                          const auto copy = [&](int from_flags, int to_flags, unsigned flags) {
                              const UniqueFd from = open_file(dir + "/one", from_flags);
                              const UniqueFd to = open_file(dir + "/two", to_flags);
                              return answer(::copy_file_range(from.get(), nullptr, to.get(), nullptr, 100, flags));
                          };
                          return in_turn({copy(O_WRONLY, O_WRONLY, 0), copy(O_RDONLY, O_RDONLY, 0),
                                          copy(O_RDONLY, O_WRONLY | O_APPEND, 0), copy(O_PATH, O_WRONLY, 0),
                                          copy(O_RDONLY, O_PATH, 0), copy(O_RDONLY, O_WRONLY, 1),
                                          copy(O_RDWR, O_RDWR, 0)});
                      }});
    try_all(parity, root, trials);
}

TEST_SUITE_END();
