// Modes and owners: who may change them, and which bits go when.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/xattr.h>

#include "tests/mount/files.h"
#include "tests/mount/mapping.h"
#include "tests/mount/process.h"
#include "tests/mount/trials.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

const std::vector<Owner> owners = {
    {0, 0}, {nobody, nobody}, {nobody, shared_group}, {nobody, foreign_group}, {1000, shared_group}};

std::function<void(const std::string&)> prepared(const std::string& type, const Owner& owner, mode_t mode = 0644) {
    return [=](const std::string& dir) {
        make_object(type, dir + "/object");
        must(::lchown((dir + "/object").c_str(), owner.uid, owner.gid), "lchown");
        if (type != "link") must(::chmod((dir + "/object").c_str(), mode), "chmod");
    };
}

std::string capability() {
    // linux/capability.h: revision 2, CAP_NET_RAW permitted.
    const std::uint32_t words[] = {0x02000000, 1U << 13U, 0, 0, 0};
    return {reinterpret_cast<const char*>(words), sizeof words};
}

// A file that others may run as its owner, with a capability.
std::function<void(const std::string&)> privileged(const Owner& owner, mode_t mode) {
    return [=](const std::string& dir) {
        const std::string path = dir + "/object";
        make_file(path, pattern(0, 9000));
        make_file(dir + "/other", pattern(0, 5000, 1));
        must(::chown(path.c_str(), owner.uid, owner.gid), "chown");
        must(::chmod(path.c_str(), mode), "chmod");
        must(::setxattr(path.c_str(), "security.capability", capability().data(), capability().size(), 0), "setxattr");
    };
}

struct Change {
    std::string name;
    std::function<long(const std::string& path)> make;
};

UniqueFd writable(const std::string& path, int flags = 0) {
    return open_file(path, O_RDWR | flags);
}

// What may take set-id bits and capabilities from a file.
const std::vector<Change> changes = {
    {"write", [](auto& path) { return ::write(writable(path).get(), "abc", 3); }},
    {"append", [](auto& path) { return ::write(writable(path, O_APPEND).get(), "abc", 3); }},
    {"write past the end", [](auto& path) { return ::pwrite(writable(path).get(), "abc", 3, 100000); }},
    {"write nothing", [](auto& path) { return ::write(writable(path).get(), "", 0); }},
    {"read",
     [](auto& path) {
         char byte = 0;
         return ::read(writable(path).get(), &byte, 1);
     }},
    {"truncate", [](auto& path) { return long{::truncate(path.c_str(), 10)}; }},
    {"truncate to the same size", [](auto& path) { return long{::truncate(path.c_str(), 9000)}; }},
    {"ftruncate", [](auto& path) { return long{::ftruncate(writable(path).get(), 10)}; }},
    {"open with O_TRUNC", [](auto& path) { return writable(path, O_TRUNC) ? 0L : -1L; }},
    {"fallocate", [](auto& path) { return long{::fallocate(writable(path).get(), 0, 0, 20000)}; }},
    {"fallocate inside", [](auto& path) { return long{::fallocate(writable(path).get(), 0, 0, 100)}; }},
    {"fallocate keeping the size",
     [](auto& path) { return long{::fallocate(writable(path).get(), FALLOC_FL_KEEP_SIZE, 0, 20000)}; }},
    {"a hole",
     [](auto& path) {
         return long{::fallocate(writable(path).get(), FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, 4096)};
     }},
    {"copy_file_range",
     [](auto& path) {
         const UniqueFd from = open_file(path.substr(0, path.rfind('/')) + "/other", O_RDONLY);
         return ::copy_file_range(from.get(), nullptr, writable(path).get(), nullptr, 4000, 0);
     }},
    {"chmod without the bits", [](auto& path) { return long{::chmod(path.c_str(), 0755)}; }},
    {"chmod with the bits", [](auto& path) { return long{::chmod(path.c_str(), 06755)}; }},
    {"chown of nothing", [](auto& path) { return long{::chown(path.c_str(), -1, -1)}; }},
    {"chown to the same user", [](auto& path) { return long{::chown(path.c_str(), status(path).st_uid, -1)}; }},
    {"chown to the same group", [](auto& path) { return long{::chown(path.c_str(), -1, status(path).st_gid)}; }},
    {"chown to a group of one's own", [](auto& path) { return long{::chown(path.c_str(), -1, shared_group)}; }},
    {"chown to a foreign group", [](auto& path) { return long{::chown(path.c_str(), -1, foreign_group)}; }},
    {"chown to somebody", [](auto& path) { return long{::chown(path.c_str(), 1000, 1000)}; }},
    {"link", [](auto& path) { return long{::link(path.c_str(), (path + "-link").c_str())}; }},
    {"rename", [](auto& path) { return long{::rename(path.c_str(), (path + "-new").c_str())}; }},
    {"set an attribute", [](auto& path) { return long{::setxattr(path.c_str(), "user.one", "1", 1, 0)}; }},
    {"set the times", [](auto& path) { return long{::utimensat(AT_FDCWD, path.c_str(), nullptr, 0)}; }},
};

}  // namespace

TEST_SUITE_BEGIN("posix");

TEST_CASE("chmod of every type of object") {
    const Parity parity(plain_like);
    for (const User& user : all_users) {
        std::vector<Trial> trials;
        for (const Owner& owner : owners) {
            for (const std::string& type : object_types) {
                trials.push_back({fmt::format("chmod of a {} of {}", type, words(owner)), prepared(type, owner),
                                  [](const std::string& dir) {
                                      const std::string path = dir + "/object";
                                      std::string said;
                                      for (const mode_t mode : {0U, 0644U, 0777U, 01777U, 02755U, 02745U, 04755U,
                                                                06755U, 07777U, 0170644U}) {
                                          said += fmt::format("{:o}: ", mode) +
                                                  in_turn({answer(::chmod(path.c_str(), mode)), mode_of(path)}) + "\n";
                                      }
                                      return said;
                                  }});
            }
        }
        try_all(parity, user, trials);
    }
}

TEST_CASE("fchmod, and chmod through a link") {
    const Parity parity(plain_like);
    for (const User& user : all_users) {
        std::vector<Trial> trials;
        for (const Owner& owner : owners) {
            for (const std::string type : {"file", "directory", "fifo"}) {
                trials.push_back(
                    {fmt::format("fchmod of a {} of {}", type, words(owner)), prepared(type, owner),
                     [](const std::string& dir) {
                         const std::string path = dir + "/object";
                         const UniqueFd open = open_file(path, O_RDONLY | O_NONBLOCK);
                         const UniqueFd found = open_file(path, O_PATH);
                         std::string said = "O_PATH: " + answer(::fchmod(found.get(), 0600)) + "\n";
                         for (const mode_t mode : {0U, 07777U, 02750U})
                             said += in_turn({answer(::fchmod(open.get(), mode)), mode_of(path)}) + "\n";
                         must(::symlink("object", (dir + "/link").c_str()), "symlink");
                         said += in_turn({"by a link:", answer(::chmod((dir + "/link").c_str(), 0611)), mode_of(path)});
                         return said;
                     }});
            }
        }
        try_all(parity, user, trials);
    }
}

TEST_CASE("chown of every type of object") {
    constexpr auto same = static_cast<uid_t>(-1);
    const std::vector<Owner> targets = {
        {same, same},          {nobody, same},         {same, nobody}, {same, shared_group},
        {same, foreign_group}, {nobody, shared_group}, {1000, same},   {0, 0}};
    const Parity parity(plain_like);
    for (const User& user : all_users) {
        std::vector<Trial> trials;
        for (const Owner& owner : {owners[0], owners[2], owners[3]}) {
            for (const std::string& type : object_types) {
                for (const Owner& target : targets) {
                    for (const mode_t mode : {06755U, 02745U}) {
                        if (mode != 06755U && type != "file" && type != "directory") continue;
                        // Of a change of nothing the kernel does not ask whether a bit that goes with it may go.
                        const bool is_nothing = target.uid == same && target.gid == same;
                        if (is_nothing && mode != 06755U && user.uid != 0 && owner.uid != user.uid) continue;
                        trials.push_back(
                            {fmt::format("lchown of a {} {:o} of {} to {}", type, mode, words(owner), words(target)),
                             prepared(type, owner, mode), [target](const std::string& dir) {
                                 return answer(::lchown((dir + "/object").c_str(), target.uid, target.gid));
                             }});
                    }
                }
            }
        }
        try_all(parity, user, trials);
    }
}

TEST_CASE("chown through links and descriptors") {
    const Parity parity(plain_like);
    for (const User& user : all_users) {
        std::vector<Trial> trials;
        for (const Owner& owner : owners) {
            for (const std::string type : {"file", "directory"}) {
                trials.push_back({fmt::format("chown by a link of a {} of {}", type, words(owner)),
                                  prepared(type, owner, 06777), [](const std::string& dir) {
                                      const std::string link = dir + "/link";
                                      must(::symlink("object", link.c_str()), "symlink");
                                      return answer(::chown(link.c_str(), -1, shared_group));
                                  }});
                trials.push_back({fmt::format("fchown of a {} of {}", type, words(owner)), prepared(type, owner, 06777),
                                  [](const std::string& dir) {
                                      return answer(
                                          ::fchown(open_file(dir + "/object", O_RDONLY).get(), -1, shared_group));
                                  }});
                trials.push_back({fmt::format("fchownat of a {} of {} by O_PATH", type, words(owner)),
                                  prepared(type, owner, 06777), [](const std::string& dir) {
                                      const UniqueFd found = open_file(dir + "/object", O_PATH);
                                      return in_turn(
                                          {answer(::fchown(found.get(), -1, shared_group)),
                                           answer(::fchownat(found.get(), "", -1, shared_group, AT_EMPTY_PATH))});
                                  }});
            }
        }
        try_all(parity, user, trials);
    }
}

TEST_CASE("what takes set-id bits and capabilities from a file") {
    const Parity parity(plain_like);
    for (const User& user : all_users) {
        std::vector<Trial> trials;
        for (const Owner& owner : {Owner{nobody, foreign_group}, {nobody, shared_group}, {1000, shared_group}}) {
            if (user.uid == 0 && owner.uid != nobody) continue;  // one is as good as another
            for (const mode_t mode : {06777U, 02767U, 04766U}) {
                for (const Change& change : changes) {
                    // As above.
                    const bool is_nothing = change.name == std::string("chown of nothing");
                    if (is_nothing && mode == 02767U && user.uid != 0 && owner.uid != user.uid) continue;
                    trials.push_back({fmt::format("{} of a file {:o} of {}", change.name, mode, words(owner)),
                                      privileged(owner, mode), [&change](const std::string& dir) {
                                          return answer(change.make(dir + "/object"));
                                      }});
                }
            }
        }
        try_all(parity, user, trials);
    }
}

TEST_CASE("a write to a file that was opened cached and set-id bits") {
    const ViewMount mount({"max_size=1M", "cached_opens"});
    for (const mode_t mode : {02767U, 02777U, 04767U, 06767U, 06777U}) {
        for (const gid_t group : {nobody, foreign_group}) {
            const auto left = [&](const std::string& directory, const std::string& kind) {
                const std::string name = fmt::format("{} {:o} {}", kind, mode, group);
                make_file(mount.raw(name), "abc");
                must(::chown(mount.raw(name).c_str(), 1000, group), "chown");
                must(::chmod(mount.raw(name).c_str(), mode), "chmod");
                CHECK(as_user(nobody, [&] {
                          write_at(open_file(directory + "/" + name, O_WRONLY).get(), 0, "new");
                          return read_all(directory + "/" + name).substr(0, 3);
                      }) == "new");
                return status(mount.raw(name)).st_mode;
            };
            CAPTURE(mode);
            CAPTURE(group);
            CHECK(left(mount.mountpoint(), "view") == left(mount.source(), "raw"));
        }
    }
}

TEST_CASE("a store in a mapping and set-id bits") {
    const Parity parity(plain_like);
    for (const User& user : all_users) {
        std::vector<Trial> trials;
        for (const Owner& owner : owners) {
            trials.push_back(
                {fmt::format("a store to a file of {}", words(owner)), privileged(owner, 06777),
                 [](const std::string& dir) {
                     const UniqueFd file = writable(dir + "/object");
                     const Mapping mapping(file.get(), page, PROT_READ | PROT_WRITE);
                     return in_turn({std::to_string(mapping.store(10, "stored")), std::to_string(mapping.sync())});
                 }});
        }
        try_all(parity, user, trials);
    }
}

TEST_CASE("what is made in a set-group-id directory") {
    const Parity parity(plain_like);
    for (const User& user : all_users) {
        std::vector<Trial> trials;
        for (const gid_t group : {gid_t{0}, nobody, shared_group, foreign_group}) {
            for (const mode_t mask : {0U, 027U}) {
                trials.push_back({fmt::format("in a directory of group {} with umask {:o}", group, mask),
                                  [group](const std::string& dir) {
                                      must(::chown(dir.c_str(), 0, group), "chown");
                                      must(::chmod(dir.c_str(), 02777), "chmod");
                                  },
                                  [mask](const std::string& dir) {
                                      ::umask(mask);
                                      std::string said;
                                      for (const mode_t mode : {0777U, 02777U, 02767U, 04755U, 06755U, 01644U}) {
                                          const std::string name = fmt::format("{}/{:o}", dir, mode);
                                          said += opened(name + " file", O_RDWR | O_CREAT | O_EXCL, mode) + " ";
                                          said += answer(::mknod((name + " node").c_str(), S_IFREG | mode, 0)) + " ";
                                          said += answer(::mknod((name + " fifo").c_str(), S_IFIFO | mode, 0)) + " ";
                                          said += answer(::mkdir((name + " directory").c_str(), mode)) + " ";
                                          said += answer(::mkdir((name + " directory/inside").c_str(), mode)) + "\n";
                                      }
                                      said += answer(::symlink("target", (dir + "/link").c_str()));
                                      return said;
                                  }});
            }
        }
        try_all(parity, user, trials);
    }
}

TEST_SUITE_END();
