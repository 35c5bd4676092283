// Many small trials of one kind, each of them in the mount and in the plain directory beside it.
#pragma once

#include <sys/types.h>

#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "tests/mount/parity.h"
#include "tests/mount/process.h"

namespace nosigbus::test {

struct Trial {
    std::string name;
    // Done by root, in an empty directory of the trial's own where all may write.
    std::function<void(const std::string& directory)> prepare;
    // Done by the user in question. What it says is compared line by line.
    Step act;
};

// Takes all `trials` as `user`, in the mount and in the plain directory, and checks that both said the same and look
// the same after, and that the source looks like the mount. The trials have one process between them, since it is
// starting processes that takes the time.
void try_all(const Parity& parity, const User& user, const std::vector<Trial>& trials);

// The first line of `got` that differs from what is wanted there; empty where none does.
std::string first_difference(const std::string& got, const std::string& wanted);

// With these a mount is what the plain directory is in all but the size that SEEK_END finds.
inline const std::vector<std::string> plain_like = {"stat=real", "max_size=1M", "dev"};

// The group is one to which `member` belongs and `stranger` does not.
inline constexpr gid_t shared_group = 700;
inline constexpr gid_t foreign_group = 800;
inline const User root{.name = "root", .uid = 0, .gid = 0};
inline const User stranger{.name = "an ordinary user", .uid = nobody, .gid = nobody};
inline const User member{
    .name = "a member of the group", .uid = nobody, .gid = nobody, .groups = {shared_group, shared_group + 1}};
inline const std::vector<User> all_users = {root, stranger, member};

// The answers in a line. Braces alone make the compiler ask for them in the order in which they stand.
std::string in_turn(std::initializer_list<std::string> answers);

struct Owner {
    uid_t uid = 0;
    gid_t gid = 0;
};
std::string words(const Owner& owner);

// Every type of object there is: "file", "directory", "fifo", "socket", "link", "character device" and "block device".
// The link leads to "target", which is not there; the character device is /dev/null, and no driver has the block
// device.
inline const std::vector<std::string> object_types = {"file", "directory",        "fifo",        "socket",
                                                      "link", "character device", "block device"};
void make_object(const std::string& type, const std::string& path);

// An object as it looks, in a line: type and mode, owner, links, size, blocks, content and extended attributes. Not the
// times.
std::string looks(const std::string& path);

// Opens, closes, and says how that went.
std::string opened(const std::string& path, int flags, mode_t mode = 0644);

// How much of `length` bytes at `offset` is to be read of an open file: all, or what is there, where reads of a view go
// on (kernel.h). Who uses it says so by reads_end().
std::size_t to_read(int fd, std::size_t length, off_t offset);

// O_DIRECT; nothing for a file on a tmpfs that refuses it (kernel.h): a view takes it, and opens as without.
int direct_for(const std::string& path);

// Where the kernel's own tmpfs lacks these (kernel.h), the output says what is left out for that, or compared instead.
void note_missing_attributes();
void note_missing_direct_opens();

std::string mode_of(const std::string& path);

}  // namespace nosigbus::test
