#include "tests/mount/directories.h"

#include <sys/mount.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <vector>

#include "tests/mount/files.h"
#include "tests/mount/mount_table.h"

namespace nosigbus::test {

namespace {

std::vector<Mount> mounts_below(const std::string& directory) {
    std::vector<Mount> mounts = mount_table();
    std::erase_if(mounts, [&](const Mount& mount) { return !mount.mountpoint.starts_with(directory + "/"); });
    return mounts;
}

}  // namespace

Directories::Directories() : root_(make_temporary_directory()) {
    for (const std::string& directory : {source(), plain(), mountpoint()})
        must(::mkdir(directory.c_str(), 0755), "mkdir");
    mount_tmpfs(source());
    mount_tmpfs(plain());
}

Directories::~Directories() {
    take_down(root_);
}

std::string make_temporary_directory() {
    const auto parent = std::filesystem::canonical(std::filesystem::temp_directory_path());
    std::string directory = (parent / "nosigbus-test.XXXXXX").string();
    must(::mkdtemp(directory.data()) == nullptr ? -1 : 0, "mkdtemp");
    must(::chmod(directory.c_str(), 0755), "chmod");
    return directory;
}

void take_down(const std::string& directory) {
    const auto mounts = mounts_below(directory);
    for (auto mount = mounts.rbegin(); mount != mounts.rend(); ++mount) {
        ::umount2(mount->mountpoint.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW);
    }
    if (!mounts_below(directory).empty()) return;
    std::error_code ignored;
    std::filesystem::remove_all(directory, ignored);
}

void mount_tmpfs(const std::string& directory) {
    must(::mount("tmpfs", directory.c_str(), "tmpfs", MS_NOSUID, "huge=never,mode=0755,size=50%"), "mount tmpfs");
}

}  // namespace nosigbus::test
