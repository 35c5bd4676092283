#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <array>
#include <filesystem>
#include <fstream>

#include "tests/mount/fault_operations.h"
#include "tests/mount/fault_points.h"
#include "tests/mount/files.h"

namespace nosigbus::test {

namespace {

constexpr const char* attribute = "user.test";

// An open view of a file with this content.
void open_view(Place& place, const std::string& content, int flags = O_RDWR) {
    make_file(place.raw + "/file", content);
    place.file = open_file(place.view + "/file", flags);
}

void a_view(Place& place) {
    open_view(place, pattern(0, 3 * page + 100));
}

void a_log(Place& place) {
    open_view(place, "first record\n", O_WRONLY | O_APPEND);
}

// As long as its view, but for three bytes.
void a_full_log(Place& place) {
    open_view(place, pattern(0, MiB - 3), O_WRONLY | O_APPEND);
}

// A hole, data, and a hole.
void a_sparse_view(Place& place) {
    open_view(place, "");
    const UniqueFd raw = open_file(place.raw + "/file", O_RDWR);
    write_at(raw.get(), 20 * page, pattern(0, page));
    resize(raw.get(), 40 * page);
}

void a_view_with_an_attribute(Place& place) {
    a_view(place);
    must(::setxattr((place.raw + "/file").c_str(), attribute, "before", 6, 0), "setxattr");
}

void a_mapped_view(Place& place) {
    a_view(place);
    place.mapping.emplace(place.file.get(), 8 * page, PROT_READ | PROT_WRITE);
}

void two_views(Place& place) {
    a_view(place);
    make_file(place.raw + "/other", "the other");
    place.other = open_file(place.view + "/other", O_RDWR);
}

std::string written(Place& place) {
    const std::string bytes = pattern(0, 5000, 1);
    return answer(::pwrite(place.file.get(), bytes.data(), bytes.size(), 4000));
}

// What is appended, record after record, is to be there once.
std::string appended(Place& place) {
    const std::string first = answer(::write(place.file.get(), "second record\n", 14));
    return first + " " + answer(::write(place.file.get(), "third record\n", 13));
}

// By several requests.
std::string much_appended(Place& place) {
    const std::string bytes = pattern(0, 3 * MiB, 2);
    return answer(::write(place.file.get(), bytes.data(), bytes.size()));
}

template <off_t size>
std::string truncated(Place& place) {
    return answer(::ftruncate(place.file.get(), size)) + " " + read_all(place.file.get());
}

std::string allocated(Place& place) {
    return answer(::fallocate(place.file.get(), 0, 0, 50'000));
}

std::string punched(Place& place) {
    return answer(::fallocate(place.file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4000, 5000));
}

std::string collapsed(Place& place) {
    return answer(::fallocate(place.file.get(), FALLOC_FL_ZERO_RANGE, 4000, 5000));
}

std::string synced(Place& place) {
    return answer(::fsync(place.file.get()));
}

std::string data_found(Place& place) {
    return answer(::lseek(place.file.get(), 0, SEEK_DATA));
}

std::string no_data_found(Place& place) {
    return answer(::lseek(place.file.get(), static_cast<off_t>(21 * page), SEEK_DATA));
}

// What the source has, after the answer.
std::string raw_attribute(const Place& place) {
    std::array<char, 100> value{};
    const auto length = ::getxattr((place.raw + "/file").c_str(), attribute, value.data(), value.size());
    return length < 0 ? answer(-1) : std::string(value.data(), static_cast<std::size_t>(length));
}

template <int flags>
std::string attribute_set(Place& place) {
    const std::string result = answer(::fsetxattr(place.file.get(), attribute, "a value", 7, flags));
    return result + " " + raw_attribute(place);
}

std::string attribute_removed(Place& place) {
    return answer(::fremovexattr(place.file.get(), attribute)) + " " + raw_attribute(place);
}

std::string attribute_got(Place& place) {
    std::array<char, 100> value{};
    const auto length = ::fgetxattr(place.file.get(), attribute, value.data(), value.size());
    return length < 0 ? answer(-1) : std::string(value.data(), static_cast<std::size_t>(length));
}

std::string attributes_listed(Place& place) {
    std::array<char, 100> names{};
    const auto length = ::flistxattr(place.file.get(), names.data(), names.size());
    return length < 0 ? answer(-1) : std::string(names.data(), static_cast<std::size_t>(length));
}

std::string mode_changed(Place& place) {
    return answer(::fchmod(place.file.get(), 04711));
}

std::string owner_changed(Place& place) {
    return answer(::fchown(place.file.get(), 12, 34));
}

std::string times_changed(Place& place) {
    const std::array<timespec, 2> times = {timespec{.tv_sec = 1000, .tv_nsec = 1},
                                           timespec{.tv_sec = 2000, .tv_nsec = 2}};
    const std::string result = answer(::futimens(place.file.get(), times.data()));
    const struct stat found = status(place.raw + "/file");
    return fmt::format("{} {}.{} {}.{}", result, found.st_atim.tv_sec, found.st_atim.tv_nsec, found.st_mtim.tv_sec,
                       found.st_mtim.tv_nsec);
}

std::string loaded(Place& place) {
    must(-::posix_fadvise(place.file.get(), 0, 0, POSIX_FADV_DONTNEED), "posix_fadvise");
    return place.mapping->bytes();
}

std::string stored(Place& place) {
    const std::size_t stored = place.mapping->store(page + 10, "stored");
    return fmt::format("{} {}", stored, answer(place.mapping->sync()));
}

std::string copied(Place& place) {
    off64_t from = 10;
    off64_t to = 3;
    return answer(::copy_file_range(place.file.get(), &from, place.other.get(), &to, 5000, 0));
}

std::string born(Place& place) {
    struct statx found {};
    const std::string result =
        answer(::statx(place.file.get(), "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &found));
    return fmt::format("{} {:x}", result, found.stx_mask & (STATX_BASIC_STATS | STATX_BTIME));
}

std::string flags_changed(Place& place) {
    int flags = FS_NODUMP_FL;
    const std::string result = answer(::ioctl(place.file.get(), FS_IOC_SETFLAGS, &flags));
    flags = 0;
    return result + " " + answer(::ioctl(open_file(place.raw + "/file", O_RDONLY).get(), FS_IOC_GETFLAGS, &flags)) +
           fmt::format(" {:x}", flags & FS_NODUMP_FL);
}

// Whether the daemon has `path` open, and not only as a node.
bool daemon_has_open(const ViewMount& mount, const std::string& path) {
    const std::string process = fmt::format("/proc/{}/", mount.pid());
    for (const auto& entry : std::filesystem::directory_iterator(process + "fd")) {
        std::error_code closed;
        if (std::filesystem::read_symlink(entry.path(), closed) != path) continue;
        std::ifstream info(process + "fdinfo/" + entry.path().filename().string());
        int flags = 0;
        for (std::string word; info >> word;) {
            if (word == "flags:") info >> std::oct >> flags;
        }
        if ((flags & O_PATH) == 0) return true;
    }
    return false;
}

std::string closed(Place& place) {
    place.file.reset();
    const bool is_closed = eventually([&] { return !daemon_has_open(place.mount, place.raw + "/file"); });
    return is_closed ? "closed" : "still open";
}

}  // namespace

std::vector<Operation> operations_on_files() {
    // An append, and what waits for a barrier, is answered by the refresher.
    const Points appends = {"request.WRITE", "processed.WRITE", "refresher.turn"};
    return {
        {"pwrite", a_view, written, around({"WRITE"})},
        {"append", a_log, appended,
         appends + Points{"inbox.read", "inbox.read 1"} + noted_deed + Points{"deed.executed 1", "deed.done 1"} +
             slots(1, 1)},
        {"append beyond the view's end", a_full_log, appended, appends + noted_deed + outgrows},
        {"append of several requests", a_log, much_appended,
         Points{"request.WRITE 1", "deed.begun 1", "deed.executed 1", "deed.done 1", "deed.executed 2"}},
        {"ftruncate", a_view, truncated<100>, around({"SETATTR"})},
        {"ftruncate that lengthens", a_view, truncated<20'000>, around({"SETATTR"})},
        {"ftruncate beyond the view's end", a_view, truncated<MiB + 5>, around({"SETATTR"}) + outgrows},
        {"fallocate", a_view, allocated, around({"FALLOCATE"})},
        {"fallocate with FALLOC_FL_PUNCH_HOLE", a_view, punched, around({"FALLOCATE"})},
        {"fallocate, refused", a_view, collapsed, around({"FALLOCATE"})},
        {"fsync", a_view, synced, {"request.FSYNC", "processed.FSYNC", "refresher.turn"}},
        {"lseek with SEEK_DATA", a_sparse_view, data_found, around({"LSEEK"})},
        {"lseek with SEEK_DATA behind all data", a_sparse_view, no_data_found, around({"LSEEK"})},
        // What asks for the fault passes the last two itself.
        {"setxattr with XATTR_CREATE", a_view, attribute_set<XATTR_CREATE>,
         noted_deed + slots(1, 1) + Points{"request.SETXATTR", "answer.SETXATTR 1", "processed.SETXATTR 1"}},
        {"setxattr with XATTR_CREATE of what exists", a_view_with_an_attribute, attribute_set<XATTR_CREATE>,
         refused_deed + Points{"request.SETXATTR", "answer.SETXATTR 1", "processed.SETXATTR 1"}},
        {"setxattr with XATTR_REPLACE", a_view_with_an_attribute, attribute_set<XATTR_REPLACE>, noted_deed},
        {"getxattr", a_view_with_an_attribute, attribute_got, around({"GETXATTR"})},
        {"getxattr of what is not there", a_view, attribute_got, around({"GETXATTR"})},
        {"removexattr", a_view_with_an_attribute, attribute_removed,
         around({"REMOVEXATTR"}) + noted_deed + slots(1, 1)},
        {"removexattr of what is not there", a_view, attribute_removed, around({"REMOVEXATTR"}) + refused_deed},
        {"listxattr", a_view_with_an_attribute, attributes_listed, around({"LISTXATTR"})},
        {"chmod", a_view, mode_changed, around({"SETATTR"})},
        {"chown", a_view, owner_changed, around({"SETATTR"})},
        {"utimens", a_view, times_changed, around({"SETATTR"})},
        {"statx", a_view, born, around({"STATX"})},
        {"chattr", a_view, flags_changed, around({"IOCTL"})},
        {"load from a mapping", a_mapped_view, loaded, around({"READ"}) + Points{"inbox.read"}},
        {"store in a mapping and msync", a_mapped_view, stored,
         around({"READ", "WRITE"}) + Points{"request.FSYNC", "processed.FSYNC", "refresher.turn"}},
        {"copy_file_range", two_views, copied, around({"COPY_FILE_RANGE"})},
        {"close", a_view, closed, around({"RELEASE"}) + slots(0, 1)},
    };
}

}  // namespace nosigbus::test
