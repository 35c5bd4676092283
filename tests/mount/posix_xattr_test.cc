// Extended attributes and POSIX access control lists, by the bytes that the kernel takes.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <sys/xattr.h>

#include <array>

#include "tests/mount/files.h"
#include "tests/mount/trials.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

struct Entry {
    std::uint16_t tag;
    std::uint16_t permissions;
    std::uint32_t id = ACL_UNDEFINED_ID;
};

using List = std::vector<Entry>;

std::string bytes_of(const List& list, std::uint32_t version = POSIX_ACL_XATTR_VERSION) {
    std::string bytes(reinterpret_cast<const char*>(&version), sizeof version);
    for (const Entry& entry : list) bytes.append(reinterpret_cast<const char*>(&entry), sizeof entry);
    return bytes;
}

const char* const access_list = "system.posix_acl_access";
const char* const default_list = "system.posix_acl_default";

// For the owner, the group, others: what a mode says, too.
List minimal(unsigned user, unsigned group, unsigned other) {
    return {{ACL_USER_OBJ, static_cast<std::uint16_t>(user)},
            {ACL_GROUP_OBJ, static_cast<std::uint16_t>(group)},
            {ACL_OTHER, static_cast<std::uint16_t>(other)}};
}

// With a right of its own for one user and one group, under a mask.
List extended(std::uint32_t uid, unsigned its, std::uint32_t gid, unsigned theirs, unsigned mask, unsigned other = 0) {
    return {{ACL_USER_OBJ, 7},
            {ACL_USER, static_cast<std::uint16_t>(its), uid},
            {ACL_GROUP_OBJ, 5},
            {ACL_GROUP, static_cast<std::uint16_t>(theirs), gid},
            {ACL_MASK, static_cast<std::uint16_t>(mask)},
            {ACL_OTHER, static_cast<std::uint16_t>(other)}};
}

std::string set(const std::string& path, const char* name, const std::string& value, int flags = 0) {
    return answer(::lsetxattr(path.c_str(), name, value.data(), value.size(), flags));
}

std::string got(const std::string& path, const char* name) {
    std::array<char, 1000> value{};
    const ssize_t length = ::lgetxattr(path.c_str(), name, value.data(), value.size());
    if (length < 0) return answer(length);
    std::string words = fmt::format("{}:", length);
    for (ssize_t i = 0; i < std::min<ssize_t>(length, 60); ++i)
        words += fmt::format("{:02x}", static_cast<unsigned char>(value[static_cast<std::size_t>(i)]));
    return words;
}

const std::vector<std::pair<std::string, std::string>> lists = {
    {"nothing", bytes_of({})},
    {"minimal", bytes_of(minimal(6, 4, 0))},
    {"minimal, more than the mode", bytes_of(minimal(7, 7, 7))},
    {"extended", bytes_of(extended(1000, 7, shared_group, 6, 7, 4))},
    {"under a mask", bytes_of(extended(1000, 7, shared_group, 6, 1, 4))},
    {"without a mask", bytes_of({{ACL_USER_OBJ, 7}, {ACL_USER, 7, 1000}, {ACL_GROUP_OBJ, 5}, {ACL_OTHER, 0}})},
    {"with a mask alone", bytes_of({{ACL_USER_OBJ, 7}, {ACL_GROUP_OBJ, 5}, {ACL_MASK, 4}, {ACL_OTHER, 0}})},
    {"without an owner", bytes_of({{ACL_GROUP_OBJ, 5}, {ACL_OTHER, 0}})},
    {"out of order", bytes_of({{ACL_OTHER, 0}, {ACL_GROUP_OBJ, 5}, {ACL_USER_OBJ, 7}})},
    {"one user twice", bytes_of({{ACL_USER_OBJ, 7},
                                 {ACL_USER, 7, 1000},
                                 {ACL_USER, 1, 1000},
                                 {ACL_GROUP_OBJ, 5},
                                 {ACL_MASK, 7},
                                 {ACL_OTHER, 0}})},
    {"unknown rights", bytes_of({{ACL_USER_OBJ, 15}, {ACL_GROUP_OBJ, 5}, {ACL_OTHER, 0}})},
    {"an unknown tag", bytes_of({{ACL_USER_OBJ, 7}, {ACL_GROUP_OBJ, 5}, {ACL_OTHER, 0}, {0x40, 7}})},
    {"of another version", bytes_of(minimal(7, 5, 0), 3)},
    {"cut off", bytes_of(minimal(7, 5, 0)).substr(0, 25)},
    {"three bytes", "abc"},
    {"no bytes", ""}};

}  // namespace

TEST_SUITE_BEGIN("posix");

TEST_CASE("extended attributes of every name space, by every user") {
    const std::vector<std::string> names = {"user.one",
                                            "trusted.one",
                                            "security.one",
                                            "security.capability",
                                            "system.one",
                                            "bogus.one",
                                            "one",
                                            "user.",
                                            "user",
                                            "",
                                            "trusted.overlay.opaque",
                                            "user." + std::string(250, 'n'),
                                            "user." + std::string(251, 'n'),
                                            "user.a b\n\xff"};
    const Parity parity(plain_like);
    for (const User& user : all_users) {
        std::vector<Trial> trials;
        for (const std::string& type : object_types) {
            for (const mode_t mode : {0666U, 0444U, 0000U}) {
                for (const Owner& owner : {Owner{nobody, nobody}, {1000, shared_group}}) {
                    if (mode != 0666U && type != "file") continue;
                    trials.push_back(
                        {fmt::format("attributes of a {} {:o} of {}", type, mode, words(owner)),
                         [=](const std::string& dir) {
                             make_object(type, dir + "/object");
                             must(::lchown((dir + "/object").c_str(), owner.uid, owner.gid), "lchown");
                             if (type != "link") must(::chmod((dir + "/object").c_str(), mode), "chmod");
                         },
                         [&](const std::string& dir) {
                             const std::string path = dir + "/object";
                             std::string said;
                             for (const std::string& full : names) {
                                 const char* const name = full.c_str();
                                 said +=
                                     full.substr(0, 30) + ": " +
                                     in_turn({got(path, name), set(path, name, "abc", XATTR_REPLACE),
                                              set(path, name, "abc", XATTR_CREATE), set(path, name, "de", XATTR_CREATE),
                                              got(path, name), set(path, name, "fghi", XATTR_REPLACE), got(path, name),
                                              set(path, name, ""), got(path, name),
                                              answer(::llistxattr(path.c_str(), nullptr, 0)),
                                              answer(::lremovexattr(path.c_str(), name)),
                                              answer(::lremovexattr(path.c_str(), name)), set(path, name, "last"),
                                              set(path, name, "last", XATTR_CREATE | XATTR_REPLACE),
                                              set(path, name, "last", 4)}) +
                                     "\n";
                             }
                             return said;
                         }});
                }
            }
        }
        try_all(parity, user, trials);
    }
}

TEST_CASE("values and lists of every size") {
    const Parity parity(plain_like);
    const Trial trial = {"sizes", nullptr, [](const std::string& dir) {
                             const std::string path = dir + "/file";
                             const UniqueFd file = make_file(path);
                             std::string said;
                             for (const std::size_t size : {1UL, 4096UL, 65535UL, 65536UL, 65537UL, 100000UL}) {
                                 said += set(path, "user.large", std::string(size, 'v')) + " ";
                                 said += answer(::getxattr(path.c_str(), "user.large", nullptr, 0)) + " ";
                             }
                             ::removexattr(path.c_str(), "user.large");
                             for (int i = 0; i < 20; ++i)
                                 set(path, fmt::format("user.{:02}", i).c_str(), std::string(100, 'v'));
                             std::array<char, 1000> buffer{};
                             for (const std::size_t size : {0UL, 1UL, 99UL, 100UL, 101UL})
                                 said += answer(::getxattr(path.c_str(), "user.00", buffer.data(), size)) + " ";
                             for (const std::size_t size : {0UL, 1UL, 159UL, 160UL, 161UL})
                                 said += answer(::listxattr(path.c_str(), buffer.data(), size)) + " ";
                             said += answer(::fsetxattr(file.get(), "user.open", "1", 1, 0)) + " ";
                             said += answer(::fgetxattr(file.get(), "user.open", buffer.data(), 10)) + " ";
                             said += answer(::flistxattr(file.get(), nullptr, 0)) + " ";
                             said += answer(::fremovexattr(file.get(), "user.open")) + " ";
                             must(::unlink(path.c_str()), "unlink");
                             said += answer(::fsetxattr(file.get(), "user.open", "1", 1, 0)) + " ";
                             return said + answer(::fgetxattr(file.get(), "user.open", buffer.data(), 10));
                         }};
    for (const User& user : {root, stranger}) try_all(parity, user, {trial});
}

TEST_CASE("user attributes of a sticky directory are its owner's") {
    const Parity parity(plain_like);
    const Trial trial = {"sticky",
                         [](const std::string& dir) {
                             must(::mkdir((dir + "/sticky").c_str(), 0755), "mkdir");
                             must(::chmod((dir + "/sticky").c_str(), 01777), "chmod");
                         },
                         [](const std::string& dir) { return set(dir + "/sticky", "user.one", "1"); }};
    for (const User& user : {root, stranger}) try_all(parity, user, {trial});
}

TEST_CASE("access control lists of every form, on every type of object") {
    const Parity parity(plain_like);
    for (const User& user : {root, stranger, member}) {
        std::vector<Trial> trials;
        for (const std::string& type : object_types) {
            for (const Owner& owner : {Owner{0, 0}, {nobody, shared_group}, {nobody, foreign_group}}) {
                for (const auto& [name, bytes] : lists) {
                    if (type != "file" && type != "directory" && name != "minimal" && name != "extended") continue;
                    trials.push_back({fmt::format("{} for a {} of {}", name, type, words(owner)),
                                      [=](const std::string& dir) {
                                          make_object(type, dir + "/object");
                                          must(::lchown((dir + "/object").c_str(), owner.uid, owner.gid), "lchown");
                                          if (type != "link") must(::chmod((dir + "/object").c_str(), 06754), "chmod");
                                      },
                                      [bytes = bytes](const std::string& dir) {
                                          const std::string path = dir + "/object";
                                          return in_turn({set(path, access_list, bytes), got(path, access_list),
                                                          mode_of(path), set(path, default_list, bytes),
                                                          got(path, default_list), mode_of(path)});
                                      }});
                }
            }
        }
        try_all(parity, user, trials);
    }
}

TEST_CASE("a list and a mode follow each other") {
    const Parity parity(plain_like);
    const Trial trial = {
        "chmod", nullptr, [](const std::string& dir) {
            const std::string path = dir + "/file";
            make_file(path);
            std::string said = set(path, access_list, bytes_of(extended(1000, 7, 700, 6, 7, 4)));
            for (const mode_t mode : {0600U, 0777U, 0750U, 0U, 0640U}) {
                said += "\n" + in_turn({answer(::chmod(path.c_str(), mode)), mode_of(path), got(path, access_list)});
            }
            said += "\n" + in_turn({answer(::lremovexattr(path.c_str(), access_list)), mode_of(path),
                                    got(path, access_list), answer(::lremovexattr(path.c_str(), access_list)),
                                    answer(::lremovexattr(path.c_str(), default_list))});
            return said;
        }};
    for (const User& user : {root, stranger}) try_all(parity, user, {trial});
}

TEST_CASE("a list gives rights and takes them") {
    const Parity parity(plain_like);
    std::vector<Trial> trials;
    const std::vector<std::pair<std::string, List>> given = {
        {"the user may do all", extended(nobody, 7, foreign_group, 0, 7)},
        {"the user may read", extended(nobody, 4, foreign_group, 0, 7, 7)},
        {"the user may do nothing", extended(nobody, 0, foreign_group, 0, 7, 7)},
        {"the mask takes what the user may", extended(nobody, 7, foreign_group, 0, 4, 7)},
        {"the group may do all", extended(1000, 0, shared_group, 7, 7)},
        {"the group may write", extended(1000, 0, shared_group, 2, 7, 4)},
        {"the group may do nothing", extended(1000, 0, shared_group, 0, 7, 7)},
        {"others may do all", extended(1000, 0, foreign_group, 0, 7, 7)},
        {"nobody but the owner", minimal(7, 0, 0)}};
    for (const auto& [name, list] : given) {
        for (const std::string type : {"file", "directory"}) {
            trials.push_back({fmt::format("{} with a {}", name, type),
                              [=, list = list](const std::string& dir) {
                                  make_object(type, dir + "/object");
                                  REQUIRE(set(dir + "/object", access_list, bytes_of(list)) == "0");
                              },
                              [](const std::string& dir) {
                                  const std::string path = dir + "/object";
                                  return in_turn(
                                      {answer(::access(path.c_str(), R_OK)), answer(::access(path.c_str(), W_OK)),
                                       answer(::access(path.c_str(), X_OK)), opened(path, O_RDONLY),
                                       opened(path, O_WRONLY), opened(path, O_RDWR),
                                       answer(::truncate(path.c_str(), 1)), opened(path + "/inside", O_RDWR | O_CREAT),
                                       answer(::utimensat(AT_FDCWD, path.c_str(), nullptr, 0))});
                              }});
        }
    }
    for (const User& user : {stranger, member}) try_all(parity, user, trials);
}

TEST_CASE("what is made inherits the directory's default list, whatever the umask") {
    const Parity parity(plain_like);
    const std::vector<std::pair<std::string, List>> defaults = {
        {"no list", {}},
        {"a minimal one", minimal(7, 5, 4)},
        {"an extended one", extended(nobody, 7, shared_group, 6, 7, 5)},
        {"one under a mask", extended(1000, 7, shared_group, 7, 5, 1)}};
    for (const User& user : all_users) {
        std::vector<Trial> trials;
        for (const auto& [name, list] : defaults) {
            for (const mode_t mask : {0U, 077U}) {
                for (const mode_t directory_mode : {0777U, 02777U}) {
                    trials.push_back(
                        {fmt::format("{} of a directory {:o}, with umask {:o}", name, directory_mode, mask),
                         [=, list = list](const std::string& dir) {
                             must(::chown(dir.c_str(), 0, shared_group), "chown");
                             must(::chmod(dir.c_str(), directory_mode), "chmod");
                             if (!list.empty()) REQUIRE(set(dir, default_list, bytes_of(list)) == "0");
                         },
                         [mask](const std::string& dir) {
                             ::umask(mask);
                             std::string said;
                             for (const mode_t mode : {0777U, 0640U, 0U, 02775U}) {
                                 const std::string path = fmt::format("{}/{:o}", dir, mode);
                                 said += in_turn({opened(path + " file", O_RDWR | O_CREAT, mode),
                                                  answer(::mkdir((path + " directory").c_str(), mode)),
                                                  answer(::mkdir((path + " directory/inside").c_str(), 0777)),
                                                  opened(path + " directory/file", O_RDWR | O_CREAT, 0666),
                                                  answer(::mknod((path + " node").c_str(), S_IFREG | mode, 0)),
                                                  answer(::mkfifo((path + " fifo").c_str(), mode)),
                                                  answer(::symlink("target", (path + " link").c_str())), "\n"});
                             }
                             return said;
                         }});
                }
            }
        }
        try_all(parity, user, trials);
    }
}

TEST_CASE("a file without a name inherits the default list too") {
    const Parity parity(plain_like);
    std::vector<Trial> trials;
    for (const mode_t mask : {0U, 077U}) {
        trials.push_back({fmt::format("O_TMPFILE with umask {:o}", mask),
                          [](const std::string& dir) {
                              REQUIRE(set(dir, default_list, bytes_of(extended(nobody, 7, shared_group, 6, 7, 5))) ==
                                      "0");
                          },
                          [mask](const std::string& dir) {
                              ::umask(mask);
                              const UniqueFd file = open_file(dir, O_RDWR | O_TMPFILE, 0666);
                              return answer(::linkat(AT_FDCWD, fmt::format("/proc/self/fd/{}", file.get()).c_str(),
                                                     AT_FDCWD, (dir + "/name").c_str(), AT_SYMLINK_FOLLOW));
                          }});
    }
    for (const User& user : {root, stranger}) try_all(parity, user, trials);
}

TEST_CASE("a list that was changed in the source is the one that counts") {
    const Parity parity(plain_like);
    const ViewMount& mount = parity.mount();
    make_file(mount.raw("file"));
    const auto may = [&] {
        return as_user(stranger, [&] { return answer(::access(mount.view("file").c_str(), R_OK | W_OK)); });
    };
    for (int round = 0; round < 3; ++round) {
        CHECK(may() == "EACCES");
        REQUIRE(set(mount.raw("file"), access_list, bytes_of(extended(nobody, 7, shared_group, 0, 7))) == "0");
        CHECK(may() == "0");
        CHECK(got(mount.view("file"), access_list) == got(mount.raw("file"), access_list));
        REQUIRE(set(mount.raw("file"), access_list, bytes_of(extended(nobody, 7, shared_group, 0, 1))) == "0");
        CHECK(may() == "EACCES");
        must(::lremovexattr(mount.raw("file").c_str(), access_list), "lremovexattr");
        must(::chmod(mount.raw("file").c_str(), 0644), "chmod");
        CHECK(got(mount.view("file"), access_list) == "ENODATA");
    }
}

TEST_SUITE_END();
