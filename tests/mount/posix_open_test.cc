// open(2) with all its flags, on every type of object; and files without a name.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/xattr.h>

#include "tests/mount/files.h"
#include "tests/mount/kernel.h"
#include "tests/mount/mapping.h"
#include "tests/mount/trials.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

struct Flag {
    int value;
    std::string name;
};

const std::vector<Flag> flag_names = {{O_WRONLY, "WRONLY"},       {O_RDWR, "RDWR"},       {O_CREAT, "CREAT"},
                                      {O_EXCL, "EXCL"},           {O_TRUNC, "TRUNC"},     {O_APPEND, "APPEND"},
                                      {O_NOFOLLOW, "NOFOLLOW"},   {O_NOATIME, "NOATIME"}, {O_PATH, "PATH"},
                                      {O_DIRECT, "DIRECT"},       {O_SYNC, "SYNC"},       {O_NOCTTY, "NOCTTY"},
                                      {O_DIRECTORY, "DIRECTORY"}, {O_TMPFILE, "TMPFILE"}};

std::string words_of(int flags) {
    std::string words;
    for (const Flag& flag : flag_names) {
        if ((flags & flag.value) == flag.value) words += flag.name + " ";
    }
    return words;
}

// Every flag of `flags` set or not.
std::vector<int> combinations(const std::vector<int>& flags) {
    std::vector<int> all = {0};
    for (const int flag : flags) {
        const std::size_t before = all.size();
        for (std::size_t i = 0; i < before; ++i) all.push_back(all[i] | flag);
    }
    return all;
}

// Opens and says what can be done with what was opened, when it is a regular file.
std::string tried(const std::string& path, int flags) {
    const int direct = (flags & O_DIRECT) != 0 ? direct_for(path) : 0;
    const UniqueFd file(::open(path.c_str(), (flags & ~O_DIRECT) | direct | O_CLOEXEC | O_NONBLOCK, 0644));
    if (!file) return answer(-1);
    struct stat found {};
    std::string said = answer(::fstat(file.get(), &found));
    if (!S_ISREG(found.st_mode) || (flags & O_DIRECT) != 0) return said;
    char byte = 0;
    said += " read " + answer(::read(file.get(), &byte, to_read(file.get(), 1, 0)));
    said += " write " + answer(::write(file.get(), "x", 1));
    const int kept = ::fcntl(file.get(), F_GETFL);
    return said + fmt::format(" size {} flags {:o}", found.st_size, kept & (O_ACCMODE | O_APPEND | O_NOATIME | O_PATH));
}

std::function<void(const std::string&)> prepared(const std::string& type, mode_t mode, const Owner& owner) {
    return [=](const std::string& dir) {
        make_file(dir + "/there", "there");
        must(::chmod((dir + "/there").c_str(), 0666), "chmod");
        if (type == "link to a file")
            must(::symlink("there", (dir + "/object").c_str()), "symlink");
        else if (type != "nothing")
            make_object(type, dir + "/object");
        if (type == "nothing" || type.starts_with("link")) return;
        must(::chown((dir + "/object").c_str(), owner.uid, owner.gid), "chown");
        must(::chmod((dir + "/object").c_str(), mode), "chmod");
    };
}

Step opening(const std::vector<int>& combined) {
    return [combined](const std::string& dir) {
        std::string said;
        for (const int flags : combined) {
            said += words_of(flags) + tried(dir + "/object", flags) + "\n";
            ::unlink((dir + "/target").c_str());
        }
        return said;
    };
}

std::vector<std::string> openable() {
    std::vector<std::string> types = object_types;
    types.insert(types.end(), {"link to a file", "nothing"});
    return types;
}

UniqueFd nameless(const std::string& dir, int flags = O_RDWR, mode_t mode = 0640) {
    return open_file(dir, flags | O_TMPFILE, mode);
}

std::string linked(int fd, const std::string& path) {
    return answer(
        ::linkat(AT_FDCWD, fmt::format("/proc/self/fd/{}", fd).c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW));
}

}  // namespace

TEST_SUITE_BEGIN("posix");

TEST_CASE("open with every combination of flags") {
    reads_end("what read(2) says at the end");
    // What creates comes last, so that what is not there stays away until then.
    std::vector<int> combined = combinations({O_WRONLY, O_RDWR, O_APPEND, O_NOFOLLOW, O_DIRECTORY, O_TRUNC});
    for (const int flags : combinations({O_RDWR, O_NOFOLLOW, O_DIRECTORY, O_TRUNC, O_EXCL}))
        combined.push_back(flags | O_CREAT);
    const Parity parity(plain_like);
    for (const User& user : {root, stranger}) {
        std::vector<Trial> trials;
        for (const std::string& type : openable())
            trials.push_back({"open of a " + type, prepared(type, 0666, {1000, 1000}), opening(combined)});
        try_all(parity, user, trials);
    }
}

TEST_CASE("open, as far as modes and owners let") {
    reads_end("what read(2) says at the end");
    note_missing_direct_opens();
    const std::vector<int> combined = {O_RDONLY,
                                       O_WRONLY,
                                       O_RDWR,
                                       O_ACCMODE,
                                       O_PATH,
                                       O_RDONLY | O_NOATIME,
                                       O_RDONLY | O_DIRECTORY,
                                       O_RDONLY | O_DIRECT,
                                       O_RDWR | O_SYNC,
                                       O_WRONLY | O_APPEND,
                                       O_RDWR | O_CREAT,
                                       O_RDONLY | O_TRUNC,
                                       O_WRONLY | O_TRUNC};
    const Parity parity(plain_like);
    for (const User& user : all_users) {
        std::vector<Trial> trials;
        for (const std::string type : {"file", "directory", "fifo", "character device", "block device"}) {
            for (const Owner& owner : {Owner{nobody, 0}, {1000, shared_group}}) {
                for (const mode_t mode : {0U, 0444U, 0222U, 0600U, 0060U, 0006U})
                    trials.push_back({fmt::format("open of a {} {:o} of {}", type, mode, words(owner)),
                                      prepared(type, mode, owner), opening(combined)});
            }
        }
        try_all(parity, user, trials);
    }
}

TEST_CASE("a file made without permissions can be used by who made it") {
    const Parity parity(plain_like);
    std::vector<Trial> trials;
    for (const mode_t mode : {0U, 0444U, 0222U}) {
        trials.push_back(
            {fmt::format("create with mode {:o}", mode), nullptr, [mode](const std::string& dir) {
                 const UniqueFd file = open_file(dir + "/file", O_RDWR | O_CREAT | O_EXCL, mode);
                 char byte = 0;
                 std::string said = answer(::write(file.get(), "abc", 3));
                 said += " " + answer(::pread(file.get(), &byte, 1, 2));
                 said += " " + answer(::ftruncate(file.get(), 2));
                 said += " " + answer(::fallocate(file.get(), 0, 0, 8192));
                 said += " " + answer(::fsync(file.get()));
                 const Mapping mapping(file.get(), page, PROT_READ | PROT_WRITE);
                 said += " " + in_turn({std::to_string(mapping.store(0, "x")), std::to_string(mapping.sync())});
                 const UniqueFd again(::open(fmt::format("/proc/self/fd/{}", file.get()).c_str(), O_RDWR | O_CLOEXEC));
                 return said + " " + (again ? "0" : answer(-1));
             }});
    }
    for (const User& user : {root, stranger}) try_all(parity, user, trials);
}

TEST_CASE("calls on descriptors of every type of object") {
    const Parity parity(plain_like);
    std::vector<Trial> trials;
    for (const std::string& type : openable()) {
        for (const int flags : {O_RDONLY, O_RDWR, O_PATH}) {
            trials.push_back(
                {fmt::format("calls on a {} {}", type, words_of(flags)), prepared(type, 0666, {0, 0}),
                 [flags](const std::string& dir) {
                     const UniqueFd file(::open((dir + "/object").c_str(), flags | O_NONBLOCK | O_CLOEXEC));
                     if (!file) return answer(-1);
                     char byte = 0;
                     std::string said = "read " + answer(::read(file.get(), &byte, 1));
                     said += " pread " + answer(::pread(file.get(), &byte, 1, 0));
                     said += " pread far " + answer(::pread(file.get(), &byte, 1, off_t{1} << 40U));
                     said += " write " + answer(::write(file.get(), "x", 1));
                     said += " pwrite " + answer(::pwrite(file.get(), "x", 1, 0));
                     said += " pwrite before " + answer(::pwrite(file.get(), "x", 1, -1));
                     said += " lseek " + answer(::lseek(file.get(), 3, SEEK_SET));
                     said += " back " + answer(::lseek(file.get(), -4, SEEK_CUR));
                     said += " ftruncate " + answer(::ftruncate(file.get(), 2));
                     said += " fallocate " + answer(::fallocate(file.get(), 0, 0, 10));
                     said += " fsync " + answer(::fsync(file.get()));
                     said += " fchmod " + answer(::fchmod(file.get(), 0600));
                     said += " fchown " + answer(::fchown(file.get(), 0, 0));
                     said += " fchdir " + answer(::fchdir(file.get()));
                     must(::chdir("/"), "chdir");
                     said += " futimens " + answer(::futimens(file.get(), nullptr));
                     said += " fsetxattr " + answer(::fsetxattr(file.get(), "trusted.x", "1", 1, 0));
                     said += " fgetxattr " + answer(::fgetxattr(file.get(), "trusted.x", nullptr, 0));
                     said += " syncfs " + answer(::syncfs(file.get()));
                     said += " fadvise " + std::to_string(::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED));
                     said += " readahead " + answer(::readahead(file.get(), 0, 4096));
                     void* const mapped = ::mmap(nullptr, page, PROT_READ, MAP_SHARED, file.get(), 0);
                     said += " mmap " + (mapped == MAP_FAILED ? answer(-1) : "0");
                     if (mapped != MAP_FAILED) ::munmap(mapped, page);
                     return said;
                 }});
        }
    }
    try_all(parity, root, trials);
}

TEST_CASE("a file without a name, and how it gets one") {
    const Parity parity(plain_like);
    const auto gets_one = [](int flags) {
        return [flags](const std::string& dir) {
            const UniqueFd file = nameless(dir, flags);
            write_at(file.get(), 0, "nameless");
            std::string said = fmt::format("{:o} links {} ", status(file.get()).st_mode, status(file.get()).st_nlink);
            said += read_all(file.get()) + " ";
            said += in_turn({linked(file.get(), dir + "/name"), linked(file.get(), dir + "/name")}) + " ";
            said += linked(file.get(), dir + "/second");
            write_at(file.get(), 8, " no more");
            return said + fmt::format(" links {} {}", status(file.get()).st_nlink, read_all(file.get()));
        };
    };
    const std::vector<Trial> trials = {
        {"a name by /proc", nullptr, gets_one(O_RDWR)},
        {"excluded from having one", nullptr, gets_one(O_RDWR | O_EXCL)},
        {"a name by AT_EMPTY_PATH", nullptr,
         [](const std::string& dir) {
             const UniqueFd file = nameless(dir);
             return answer(::linkat(file.get(), "", AT_FDCWD, (dir + "/name").c_str(), AT_EMPTY_PATH));
         }},
        {"write-only", nullptr,
         [](const std::string& dir) {
             const UniqueFd file = nameless(dir, O_WRONLY, 0);
             char byte = 0;
             return in_turn({answer(::write(file.get(), "abc", 3)), answer(::pread(file.get(), &byte, 1, 0)),
                             linked(file.get(), dir + "/name")});
         }},
        {"read-only", nullptr, [](const std::string& dir) { return opened(dir, O_RDONLY | O_TMPFILE); }},
        {"without O_DIRECTORY", nullptr,
         [](const std::string& dir) { return opened(dir, O_RDWR | (O_TMPFILE & ~O_DIRECTORY)); }},
        {"with O_CREAT", nullptr, [](const std::string& dir) { return opened(dir, O_RDWR | O_TMPFILE | O_CREAT); }},
        {"in a file", [](const std::string& dir) { make_file(dir + "/file"); },
         [](const std::string& dir) { return opened(dir + "/file", O_RDWR | O_TMPFILE); }},
        {"in nothing", nullptr, [](const std::string& dir) { return opened(dir + "/no", O_RDWR | O_TMPFILE); }},
        {"where only root may", [](const std::string& dir) { must(::mkdir((dir + "/closed").c_str(), 0755), "mkdir"); },
         [](const std::string& dir) { return opened(dir + "/closed", O_RDWR | O_TMPFILE); }},
        {"umask and set-id bits", nullptr,
         [](const std::string& dir) {
             std::string said;
             for (const mode_t mask : {0U, 027U, 0777U}) {
                 ::umask(mask);
                 for (const mode_t mode : {0666U, 07777U}) {
                     const UniqueFd file = nameless(dir, O_RDWR, mode);
                     said += linked(file.get(), fmt::format("{}/{:o} {:o}", dir, mask, mode)) + " ";
                 }
             }
             return said;
         }},
        {"in a set-group-id directory",
         [](const std::string& dir) {
             must(::chown(dir.c_str(), 0, shared_group), "chown");
             must(::chmod(dir.c_str(), 02777), "chmod");
         },
         [](const std::string& dir) {
             return in_turn({linked(nameless(dir, O_RDWR, 02777).get(), dir + "/executable"),
                             linked(nameless(dir, O_RDWR, 02767).get(), dir + "/other")});
         }},
        {"all that can be done with a file", nullptr,
         [](const std::string& dir) {
             const UniqueFd file = nameless(dir);
             std::string said = answer(::ftruncate(file.get(), 20000)) + " ";
             said += answer(::fallocate(file.get(), 0, 0, 30000)) + " ";
             said += in_turn({answer(::fchmod(file.get(), 0604)), answer(::fsync(file.get()))}) + " ";
             said += answer(::fsetxattr(file.get(), "user.one", "1", 1, 0)) + " ";
             const Mapping mapping(file.get(), 30000, PROT_READ | PROT_WRITE);
             said += in_turn({std::to_string(mapping.store(25000, "stored")), std::to_string(mapping.sync())}) + " ";
             const UniqueFd again = open_file(fmt::format("/proc/self/fd/{}", file.get()), O_RDWR);
             said += read_all(again.get()).substr(25000, 6) + " ";
             return said + linked(again.get(), dir + "/name");
         }},
        {"many at once", nullptr,
         [](const std::string& dir) {
             std::vector<UniqueFd> files;
             for (unsigned i = 0; i < 50; ++i) {
                 files.push_back(nameless(dir));
                 write_at(files.back().get(), 0, pattern(0, 100, i));
             }
             std::string said;
             for (unsigned i = 0; i < 50; i += 2) said += linked(files[i].get(), fmt::format("{}/{}", dir, i)) + " ";
             for (unsigned i = 0; i < 50; ++i) said += difference(read_all(files[i].get()), pattern(0, 100, i));
             return said;
         }},
    };
    for (const User& user : all_users) try_all(parity, user, trials);
}

TEST_SUITE_END();
