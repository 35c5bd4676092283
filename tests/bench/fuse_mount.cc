#include "tests/bench/fuse_mount.h"

#include <sys/mount.h>

#include <chrono>
#include <stdexcept>
#include <utility>

#include "tests/mount/eventually.h"
#include "tests/mount/files.h"
#include "tests/mount/mount_table.h"

namespace nosigbus::bench {

FuseMount::FuseMount(const std::vector<std::string>& command, std::string mountpoint)
    : mountpoint_(std::move(mountpoint)), server_(command) {
    test::eventually([&] { return test::mounted_at(mountpoint_) || !server_.running(); });
    if (!test::mounted_at(mountpoint_)) {
        throw std::runtime_error(command.front() + " did not mount: " + server_.wait({}) + ": " + server_.errors());
    }
    test::status(mountpoint_);
}

FuseMount::~FuseMount() {
    if (test::mounted_at(mountpoint_)) ::umount2(mountpoint_.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW);
}

void FuseMount::end() {
    test::must(::umount2(mountpoint_.c_str(), UMOUNT_NOFOLLOW), "umount");
    const std::string how = server_.wait(std::chrono::seconds(20));
    if (how != "exit 0")
        throw std::runtime_error("the server of " + mountpoint_ + ": " + how + ": " + server_.errors());
}

}  // namespace nosigbus::bench
