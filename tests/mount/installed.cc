#include "tests/mount/installed.h"

#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "tests/mount/files.h"
#include "tests/mount/view_mount.h"

namespace nosigbus::test {
namespace {

// In this mount namespace only, turns `directory` into one of links to what was there: more can be added, without a
// change to the machine. `real` is where it can be found meanwhile.
void cover(const std::string& directory, const std::string& real) {
    must(::mkdir(real.c_str(), 0755), "mkdir");
    must(::mount(directory.c_str(), real.c_str(), nullptr, MS_BIND, nullptr), "mount --bind");
    must(::mount(nullptr, real.c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr),
         "mount -o remount,bind,ro");
    mount_tmpfs(directory);
    for (const auto& entry : std::filesystem::directory_iterator(real)) {
        // A link to a relative name would lead elsewhere from there.
        const std::filesystem::path name = directory / entry.path().filename();
        std::filesystem::create_symlink(entry.is_symlink() ? std::filesystem::read_symlink(entry) : entry.path(), name);
    }
}

// Puts a link where another one may be.
void link_to(const std::string& target, const std::filesystem::path& name) {
    std::filesystem::remove(name);
    std::filesystem::create_symlink(target, name);
}

}  // namespace

Installed::Installed() : sbin_(std::filesystem::canonical("/sbin").string()) {
    for (const char* directory : {"", "/bin", "/sbin"})
        must(::mkdir((root() + "/installed" + directory).c_str(), 0755), "mkdir");
    std::filesystem::copy_file(daemon_program, program());
    std::filesystem::copy_file(mount_script, script());
    cover(sbin_, root() + "/sbin");
    link_to(script(), sbin_ + "/mount.nosigbus");
    link_to(program(), sbin_ + "/nosigbus");
    std::filesystem::remove(sbin_ + "/mount.fuse.nosigbus");
    mount_tmpfs("/run");
}

Installed::~Installed() {
    if (etc_covered_) ::umount2("/etc", MNT_DETACH);
    ::umount2("/run", MNT_DETACH);
    ::umount2(sbin_.c_str(), MNT_DETACH);
}

void Installed::link_fuse_type() const {
    link_to(script(), sbin_ + "/mount.fuse.nosigbus");
}

void Installed::write_in_etc(const std::string& name, const std::string& text) {
    if (!etc_covered_) cover("/etc", root() + "/etc");
    etc_covered_ = true;
    std::filesystem::remove("/etc/" + name);
    std::ofstream("/etc/" + name) << text;
}

std::string Installed::fstab(const std::vector<std::string>& lines) const {
    const std::string path = root() + "/fstab";
    std::ofstream file(path);
    for (const std::string& line : lines) file << line << "\n";
    return path;
}

std::string Installed::line(const std::string& options, const std::string& type) const {
    return fmt::format("{} {} {} {} 0 0", source(), mountpoint(), type, options);
}

}  // namespace nosigbus::test
