#include <dirent.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <set>

#include "tests/mount/kernel.h"
#include "tests/mount/storm_lives.h"

namespace nosigbus::test {
namespace {

using namespace std::chrono_literals;

using Listing = std::unique_ptr<DIR, int (*)(DIR*)>;

// The names of a directory, in order, read with a pause in the midst of it. Throws where one comes twice.
std::string listed(Diary& diary, const std::string& directory, Random& random) {
    diary.about(directory);
    DIR* opened = nullptr;
    diary.must("opendir", [&] { return (opened = ::opendir(directory.c_str())) == nullptr ? -1 : 0; });
    const Listing listing(opened, &::closedir);
    std::set<std::string> names;
    const std::size_t pause = below(random, 1000);
    const dirent* entry = nullptr;
    const auto next = [&] {
        errno = 0;
        entry = ::readdir(listing.get());
        return errno == 0 ? 0 : -1;
    };
    while (diary.must("readdir", next) == 0 && entry != nullptr) {
        if (!names.insert(entry->d_name).second)
            throw std::runtime_error(fmt::format("{} is listed twice", entry->d_name));
        if (names.size() == pause) nap(random, 40ms);
    }
    std::string all;
    for (const std::string& name : names) all += name + "\n";
    return all;
}

// What one call is made with.
struct Choice {
    std::string one;  // a path
    std::string other;
    std::string target;
    mode_t mode;
    off_t size;
};

// What the first name should be for a call to succeed.
enum class Wanted { anything, nothing, file, directory };

struct Deed {
    const char* kind;
    Wanted wanted;
    long (*call)(const Choice& choice);
    bool needs_both = false;  // names
};

long renamed(const Choice& choice, unsigned flags) {
    return ::renameat2(AT_FDCWD, choice.one.c_str(), AT_FDCWD, choice.other.c_str(), flags);
}

long opened(const Choice& choice, int flags) {
    return UniqueFd(::open(choice.one.c_str(), flags | O_CLOEXEC, choice.mode)) ? 0 : -1;
}

long overwritten(const Choice& choice) {
    const UniqueFd file(::open(choice.one.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, choice.mode));
    return file ? ::write(file.get(), choice.target.data(), choice.target.size()) : -1;
}

long marked(const Choice& choice, int flags) {
    return ::setxattr(choice.one.c_str(), "user.storm", choice.target.data(), choice.target.size(), flags);
}

const Deed deeds[] = {
    {"create", Wanted::nothing, [](auto& it) { return opened(it, O_RDWR | O_CREAT | O_EXCL); }},
    {"create", Wanted::nothing, [](auto& it) { return opened(it, O_RDWR | O_CREAT | O_EXCL); }},
    {"overwrite", Wanted::file, overwritten},
    {"mkdir", Wanted::nothing, [](auto& it) -> long { return ::mkdir(it.one.c_str(), 0700U | it.mode); }},
    {"mkdir", Wanted::nothing, [](auto& it) -> long { return ::mkdir(it.one.c_str(), 0700U | it.mode); }},
    {"mknod", Wanted::nothing, [](auto& it) -> long { return ::mknod(it.one.c_str(), S_IFREG | it.mode, 0); }},
    {"symlink", Wanted::nothing, [](auto& it) -> long { return ::symlink(it.target.c_str(), it.one.c_str()); }},
    {"link", Wanted::file, [](auto& it) -> long { return ::link(it.one.c_str(), it.other.c_str()); }},
    {"rename", Wanted::anything, [](auto& it) { return renamed(it, 0); }},
    {"rename", Wanted::anything, [](auto& it) { return renamed(it, 0); }},
    {"rename (exchange)", Wanted::anything, [](auto& it) { return renamed(it, RENAME_EXCHANGE); }, true},
    {"rename (no replace)", Wanted::anything, [](auto& it) { return renamed(it, RENAME_NOREPLACE); }},
    {"unlink", Wanted::file, [](auto& it) -> long { return ::unlink(it.one.c_str()); }},
    {"unlink", Wanted::file, [](auto& it) -> long { return ::unlink(it.one.c_str()); }},
    {"unlink", Wanted::file, [](auto& it) -> long { return ::unlink(it.one.c_str()); }},
    {"rmdir", Wanted::directory, [](auto& it) -> long { return ::rmdir(it.one.c_str()); }},
    {"rmdir", Wanted::directory, [](auto& it) -> long { return ::rmdir(it.one.c_str()); }},
    {"setxattr (create)", Wanted::anything, [](auto& it) { return marked(it, XATTR_CREATE); }},
    {"setxattr (replace)", Wanted::anything, [](auto& it) { return marked(it, XATTR_REPLACE); }},
    {"removexattr", Wanted::anything, [](auto& it) -> long { return ::removexattr(it.one.c_str(), "user.storm"); }},
    {"getxattr", Wanted::anything,
     [](auto& it) -> long { return ::getxattr(it.one.c_str(), "user.storm", nullptr, 0); }},
    {"chmod", Wanted::anything, [](auto& it) -> long { return ::chmod(it.one.c_str(), 0600U | it.mode); }},
    {"truncate", Wanted::file, [](auto& it) -> long { return ::truncate(it.one.c_str(), it.size); }},
};

constexpr std::array names = {"a", "b", "c", "d", "e", "d/a", "d/b", "e/a"};

bool is_wanted(const std::filesystem::path& path, Wanted wanted) {
    std::error_code ignored;
    const auto found = std::filesystem::symlink_status(path, ignored);
    switch (wanted) {
        case Wanted::anything:
            return std::filesystem::exists(found);
        case Wanted::nothing:
            return !std::filesystem::exists(found) && std::filesystem::is_directory(path.parent_path(), ignored);
        case Wanted::file:
            return std::filesystem::exists(found) && !std::filesystem::is_directory(found);
        case Wanted::directory:
            return std::filesystem::is_directory(found);
    }
    return false;
}

// A name that is wanted, mostly.
std::string some_name(const std::string& directory, Wanted wanted, Random& random) {
    for (int tries = 0;; ++tries) {
        const std::string name = names[below(random, names.size())];
        if (tries == 8 || is_wanted(directory + "/" + name, wanted)) return name;
    }
}

std::string described(const std::string& path) {
    const struct stat found = status(path);
    std::string line = fmt::format("{:06o} links {} blocks {}", found.st_mode, found.st_nlink, found.st_blocks);
    std::array<char, 20000> bytes{};
    if (S_ISREG(found.st_mode)) {
        const auto read = must(::read(open_file(path, O_RDONLY).get(), bytes.data(), bytes.size()), "read");
        // Else reads of a view go on in zeros.
        const std::size_t size = kernel_maps_direct_files() ? static_cast<std::size_t>(read) : bytes.size();
        const std::string_view content(bytes.data(), size);
        line += fmt::format(" bytes {} hash {:x}", size, std::hash<std::string_view>()(content));
    } else if (S_ISLNK(found.st_mode)) {
        line += " -> " + std::filesystem::read_symlink(path).string();
    }
    bytes.fill('\0');
    if (::lgetxattr(path.c_str(), "user.storm", bytes.data(), bytes.size()) >= 0)
        line += fmt::format(" marked {}", bytes.data());
    return line;
}

// All there is, a line for each name in order. As tree() does, but fast.
std::string everything(const std::string& directory) {
    std::set<std::string> paths = {directory};
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) paths.insert(entry.path());
    std::string lines;
    for (const std::string& path : paths) lines += path.substr(directory.size()) + " " + described(path) + "\n";
    return lines;
}

}  // namespace

// Each call is made in a plain directory, too, which says what it must return and leave.
void change_names(Diary& diary, const ViewMount& mount, unsigned number) {
    const std::string name = fmt::format("/names {}", number);
    const std::string view = mount.mountpoint() + name;
    const std::string raw = mount.source() + name;
    const std::string plain = mount.plain() + name;
    must(::mkdir(plain.c_str(), 0755), "mkdir");
    diary.about(view);
    diary.must("mkdir", [&] { return ::mkdir(view.c_str(), 0755); });
    Random random(number);
    for (unsigned round = 0; diary.goes_on(); ++round) {
        const Deed& deed = deeds[below(random, std::size(deeds))];
        const Wanted other = below(random, 2) == 0 && !deed.needs_both ? Wanted::nothing : Wanted::anything;
        const Choice choice = {some_name(plain, deed.wanted, random), some_name(plain, other, random),
                               names[below(random, names.size())], below(random, 2) == 0 ? 0640U : 0755U,
                               static_cast<off_t>(below(random, 3 * page))};
        const auto in = [&](const std::string& directory) {
            return Choice{directory + "/" + choice.one, directory + "/" + choice.other, choice.target, choice.mode,
                          choice.size};
        };
        const std::string wanted = answer(deed.call(in(plain)));
        diary.about(
            fmt::format("{} and {} (target {}) in {}, call {}", choice.one, choice.other, choice.target, view, round));
        const std::string got = answer(diary.note(deed.kind, [&] { return deed.call(in(view)); }));
        expect("what it returned", got, wanted);
        const std::string outcome = everything(plain);
        expect("what it left in the file system behind", everything(raw), outcome);
        if (round % 16 == 0) expect("what it left in the mount", everything(view), outcome);
        if (round % 64 != 63) continue;
        // Directories that were moved into directories pile up.
        for (const std::string& directory : {plain, view}) {
            for (const char* top : {"a", "b", "c", "d", "e"}) std::filesystem::remove_all(directory + "/" + top);
        }
        expect("what is left of all", everything(raw), everything(plain));
    }
}

void list_names(Diary& diary, const ViewMount& mount, unsigned number) {
    const std::string name = fmt::format("/listed {}", number);
    must(::mkdir((mount.source() + name).c_str(), 0755), "mkdir");
    std::set<std::string> made = {".", ".."};
    for (int i = 0; i < 1000; ++i) {
        made.insert(fmt::format("a name of some length, so that there are many requests {}", i));
    }
    std::string wanted;
    for (const std::string& each : made) {
        wanted += each + "\n";
        if (!each.starts_with(".")) make_file(mount.source() + name + "/" + each);
    }
    Random random(number);
    while (diary.goes_on()) expect_bytes("a listing", listed(diary, mount.mountpoint() + name, random), wanted);
}

void look_around(Diary& diary, const ViewMount& mount, unsigned number) {
    const std::string name = fmt::format("looked at {}", number);
    const std::string path = mount.view(name);
    const std::size_t size = 3 * page + 7;
    const UniqueFd raw = make_file(mount.raw(name), pattern(0, size));
    must(::symlink("a target", mount.raw(name + " link").c_str()), "symlink");
    struct statvfs behind {};
    must(::statvfs(mount.source().c_str(), &behind), "statvfs");
    for (unsigned round = 0; diary.goes_on(); ++round) {
        UniqueFd view = diary.open(path, round % 2 == 0 ? O_RDONLY : O_RDWR);
        struct stat found {};
        diary.must("fstat", [&] { return ::fstat(view.get(), &found); });
        expect("st_size", static_cast<std::size_t>(found.st_size), storm_max_size);
        expect("st_ino", found.st_ino, status(raw.get()).st_ino);
        const auto hole = diary.must("lseek", [&] { return ::lseek(view.get(), 0, SEEK_HOLE); });
        expect("SEEK_HOLE", static_cast<std::size_t>(hole), size);
        diary.must("close", [&] { return ::close(view.release()); });
        diary.must("stat", [&] { return ::stat(path.c_str(), &found); });
        expect("st_size", static_cast<std::size_t>(found.st_size), storm_max_size);
        expect("st_nlink", static_cast<int>(found.st_nlink), 1);
        struct statvfs seen {};
        diary.must("statfs", [&] { return ::statvfs(mount.mountpoint().c_str(), &seen); });
        expect("f_blocks", seen.f_blocks * seen.f_frsize, behind.f_blocks * behind.f_frsize);
        std::array<char, 64> text{};
        diary.must("readlink", [&] { return ::readlink((path + " link").c_str(), text.data(), text.size() - 1); });
        expect("readlink", std::string(text.data()), std::string("a target"));
        text.fill('\0');
        diary.must("getxattr",
                   [&] { return ::getxattr(path.c_str(), "user.nosigbus.real_size", text.data(), text.size() - 1); });
        expect("real_size", std::string(text.data()), std::to_string(size));
        const auto absent = diary.note("stat", [&] { return ::stat((path + " not").c_str(), &found); });
        expect("stat of what is not there", answer(absent), std::string("ENOENT"));
        // The kernel forgets names and says so to the server, many at once.
        if (round % 500 == 0) std::ofstream("/proc/sys/vm/drop_caches") << 2 << std::flush;
    }
}

}  // namespace nosigbus::test
