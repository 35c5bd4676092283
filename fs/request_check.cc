#include "fs/request_check.h"

#include <linux/fuse.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <optional>

#include "fs/current_request.h"
#include "fs/newer_requests.h"
#include "lib/log.h"

namespace nosigbus {
namespace {

// Things whose number stands in the structure at the start, at `at`. `size` 0: there are none.
struct Counted {
    std::size_t at = 0;
    std::size_t size = 0;
};

// What follows a request's head: a structure, then strings with their NULs, then what is counted.
struct Shape {
    std::uint32_t opcode;
    std::size_t structure;
    unsigned strings = 0;
    Counted counted{};
};

// struct fuse_statx_in of Linux 6.6.
constexpr std::size_t statx_in_size = 24;

// All that libfuse 3.14 looks into, and what is put in its words before it does.
constexpr std::array shapes = {
    Shape{FUSE_LOOKUP, 0, 1},
    Shape{FUSE_FORGET, sizeof(fuse_forget_in)},
    Shape{FUSE_GETATTR, sizeof(fuse_getattr_in)},
    Shape{FUSE_SETATTR, sizeof(fuse_setattr_in)},
    Shape{FUSE_READLINK, 0},
    Shape{FUSE_SYMLINK, 0, 2},
    Shape{FUSE_MKNOD, sizeof(fuse_mknod_in), 1},
    Shape{FUSE_MKDIR, sizeof(fuse_mkdir_in), 1},
    Shape{FUSE_UNLINK, 0, 1},
    Shape{FUSE_RMDIR, 0, 1},
    Shape{FUSE_RENAME, sizeof(fuse_rename_in), 2},
    Shape{FUSE_LINK, sizeof(fuse_link_in), 1},
    Shape{FUSE_OPEN, sizeof(fuse_open_in)},
    Shape{FUSE_READ, sizeof(fuse_read_in)},
    Shape{FUSE_WRITE, sizeof(fuse_write_in), 0, {offsetof(fuse_write_in, size), 1}},
    Shape{FUSE_STATFS, 0},
    Shape{FUSE_RELEASE, sizeof(fuse_release_in)},
    Shape{FUSE_FSYNC, sizeof(fuse_fsync_in)},
    // The short form, see shape_of.
    Shape{FUSE_SETXATTR, FUSE_COMPAT_SETXATTR_IN_SIZE, 1, {offsetof(fuse_setxattr_in, size), 1}},
    Shape{FUSE_GETXATTR, sizeof(fuse_getxattr_in), 1},
    Shape{FUSE_LISTXATTR, sizeof(fuse_getxattr_in)},
    Shape{FUSE_REMOVEXATTR, 0, 1},
    Shape{FUSE_FLUSH, sizeof(fuse_flush_in)},
    Shape{FUSE_INIT, offsetof(fuse_init_in, flags2)},  // so long before Linux 5.17
    Shape{FUSE_OPENDIR, sizeof(fuse_open_in)},
    Shape{FUSE_READDIR, sizeof(fuse_read_in)},
    Shape{FUSE_RELEASEDIR, sizeof(fuse_release_in)},
    Shape{FUSE_FSYNCDIR, sizeof(fuse_fsync_in)},
    Shape{FUSE_GETLK, sizeof(fuse_lk_in)},
    Shape{FUSE_SETLK, sizeof(fuse_lk_in)},
    Shape{FUSE_SETLKW, sizeof(fuse_lk_in)},
    Shape{FUSE_ACCESS, sizeof(fuse_access_in)},
    Shape{FUSE_CREATE, sizeof(fuse_create_in), 1},
    Shape{FUSE_INTERRUPT, sizeof(fuse_interrupt_in)},
    Shape{FUSE_BMAP, sizeof(fuse_bmap_in)},
    Shape{FUSE_DESTROY, 0},
    Shape{FUSE_IOCTL, sizeof(fuse_ioctl_in), 0, {offsetof(fuse_ioctl_in, in_size), 1}},
    Shape{FUSE_POLL, sizeof(fuse_poll_in)},
    Shape{FUSE_BATCH_FORGET,
          sizeof(fuse_batch_forget_in),
          0,
          {offsetof(fuse_batch_forget_in, count), sizeof(fuse_forget_one)}},
    Shape{FUSE_FALLOCATE, sizeof(fuse_fallocate_in)},
    Shape{FUSE_READDIRPLUS, sizeof(fuse_read_in)},
    Shape{FUSE_RENAME2, sizeof(fuse_rename2_in), 2},
    Shape{FUSE_LSEEK, sizeof(fuse_lseek_in)},
    Shape{FUSE_COPY_FILE_RANGE, sizeof(fuse_copy_file_range_in)},
    Shape{FUSE_TMPFILE, sizeof(fuse_create_in), 1},
    Shape{statx_opcode, statx_in_size},
};

constexpr std::size_t opcodes =
    std::max_element(shapes.begin(), shapes.end(), [](const Shape& a, const Shape& b) { return a.opcode < b.opcode; })
        ->opcode +
    1;

// By opcode: every request is looked at.
constexpr auto shape_by_opcode = [] {
    std::array<std::optional<Shape>, opcodes> table{};
    for (const Shape& shape : shapes) table[shape.opcode] = shape;
    return table;
}();

// Of an opcode that has one.
Shape shape_of(std::uint32_t opcode, std::uint64_t accepted_flags) {
    Shape shape = *shape_by_opcode.at(opcode);
    if (opcode == FUSE_SETXATTR && (accepted_flags & FUSE_SETXATTR_EXT) != 0)
        shape.structure = sizeof(fuse_setxattr_in);
    return shape;
}

template <typename Value>
Value value_at(std::span<const std::byte> bytes, std::size_t offset) {
    Value value{};
    std::memcpy(&value, bytes.subspan(offset, sizeof value).data(), sizeof value);
    return value;
}

// Takes so many strings from the start of `rest`. Returns whether they were all there, each with its NUL.
bool take_strings(std::span<const std::byte>& rest, unsigned count) {
    for (unsigned i = 0; i < count; ++i) {
        const auto end = std::ranges::find(rest, std::byte{0});
        if (end == rest.end()) return false;
        rest = rest.subspan(static_cast<std::size_t>(end - rest.begin()) + 1);
    }
    return true;
}

bool fits(const Shape& shape, std::span<const std::byte> body) {
    if (body.size() < shape.structure) return false;
    // A structure may be longer than we know it, but not where something stands behind it.
    if (shape.strings == 0 && shape.counted.size == 0) return true;
    auto rest = body.subspan(shape.structure);
    if (!take_strings(rest, shape.strings)) return false;
    std::size_t counted = 0;
    if (shape.counted.size != 0) counted = value_at<std::uint32_t>(body, shape.counted.at) * shape.counted.size;
    return rest.size() == counted;
}

bool has_flags_it_promises(std::span<const std::byte> init) {
    const auto flags = value_at<std::uint32_t>(init, offsetof(fuse_init_in, flags));
    return (flags & FUSE_INIT_EXT) == 0 || init.size() >= offsetof(fuse_init_in, unused);
}

}  // namespace

bool is_answered(const fuse_in_header& head) {
    switch (head.opcode) {
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
        case FUSE_INTERRUPT:
        case FUSE_NOTIFY_REPLY:
            return false;
        default:
            return head.unique != 0;  // an answer to number 0 would be a notification
    }
}

constexpr std::size_t extension_words_at = offsetof(fuse_in_header, pid) + sizeof(fuse_in_header::pid);

std::uint16_t extension_words(const fuse_in_header& head) {
    return value_at<std::uint16_t>(std::as_bytes(std::span(&head, 1)), extension_words_at);
}

void set_extension_words(fuse_in_header& head, std::uint16_t words) {
    std::memcpy(std::as_writable_bytes(std::span(&head, 1)).subspan(extension_words_at).data(), &words, sizeof words);
}

bool is_well_formed(std::span<const std::byte> request, std::uint64_t accepted_flags) {
    fuse_in_header head{};
    if (request.size() < sizeof head) return false;
    std::memcpy(&head, request.data(), sizeof head);
    if (head.len != request.size() || head.unique == 0) return false;
    // We ask for nothing by FUSE_NOTIFY_RETRIEVE, and libfuse would keep an answer that it does not expect.
    if (head.opcode == FUSE_NOTIFY_REPLY) return false;
    if (head.opcode >= shape_by_opcode.size() || !shape_by_opcode[head.opcode]) return true;
    // Extensions stand at the end, counted in words (fuse_args_num_extensions in get_create_ext).
    auto body = request.subspan(sizeof head);
    const std::size_t extensions = extension_words(head) * sizeof(std::uint64_t);
    if (extensions > body.size()) return false;
    body = body.first(body.size() - extensions);
    return fits(shape_of(head.opcode, accepted_flags), body) &&
           (head.opcode != FUSE_INIT || has_flags_it_promises(body));
}

void turn_down(std::span<const std::byte> request, int device) {
    fuse_in_header head{};
    if (request.size() < sizeof head) return;  // nobody's
    std::memcpy(&head, request.data(), sizeof head);
    static std::atomic_flag told;
    if (!told.test_and_set()) log::error("{} with lengths that do not fit: EINVAL", name_of_operation(head.opcode));
    if (!is_answered(head)) return;
    const fuse_out_header answer = {.len = sizeof answer, .error = -EINVAL, .unique = head.unique};
    // Who asked may have been interrupted meanwhile (ENOENT), and the mount may be gone.
    [[maybe_unused]] const ssize_t written = ::write(device, &answer, sizeof answer);
}

}  // namespace nosigbus
