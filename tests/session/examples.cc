#include "tests/session/examples.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "tests/session/fake_kernel.h"

#pragma GCC diagnostic ignored "-Wmissing-field-initializers"  // what is not named is 0

namespace nosigbus::test {
namespace {

constexpr auto statx_opcode = static_cast<fuse_opcode>(52);

std::vector<Example> of_names(const Subjects& s) {
    const fuse_mknod_in mknod{.mode = S_IFREG | 0644, .umask = 022};
    const fuse_mkdir_in mkdir{.mode = 0755, .umask = 022};
    const fuse_create_in create{.flags = O_RDWR | O_CREAT, .mode = S_IFREG | 0644, .umask = 022};
    const fuse_create_in nameless{.flags = O_RDWR | O_TMPFILE, .mode = S_IFREG | 0600};
    const fuse_rename_in rename{.newdir = s.directory};
    const fuse_rename2_in exchange{.newdir = FUSE_ROOT_ID, .flags = RENAME_NOREPLACE};
    const fuse_link_in link{.oldnodeid = s.file};
    return {{FUSE_LOOKUP, FUSE_ROOT_ID, name_of("file")},
            {FUSE_MKNOD, s.directory, body(mknod) + name_of("node")},
            {FUSE_MKDIR, s.directory, body(mkdir) + name_of("subdirectory")},
            {FUSE_SYMLINK, s.directory, name_of("symlink") + name_of("to/where")},
            {FUSE_LINK, s.directory, body(link) + name_of("hard")},
            {FUSE_CREATE, s.directory, body(create) + name_of("new")},
            {FUSE_TMPFILE, s.directory, body(nameless) + name_of("/")},
            {FUSE_RENAME, s.directory, body(rename) + name_of("node") + name_of("renamed")},
            {FUSE_RENAME2, s.directory, body(exchange) + name_of("renamed") + name_of("moved")},
            {FUSE_UNLINK, s.directory, name_of("symlink")},
            {FUSE_RMDIR, s.directory, name_of("subdirectory")},
            {FUSE_READLINK, s.link, ""},
            {FUSE_STATFS, FUSE_ROOT_ID, ""}};
}

std::vector<Example> of_attributes(const Subjects& s) {
    const fuse_getattr_in getattr{};
    const fuse_setattr_in setattr{
        .valid = FATTR_SIZE | FATTR_MODE | FATTR_FH, .padding = 0, .fh = s.opened_file, .size = 10000, .mode = 0640};
    const std::uint32_t value_size = 5;
    const std::uint32_t no_flags = 0;
    const fuse_getxattr_in room{.size = 1024};
    // STATX: flags, reserved, handle, sx_flags, sx_mask.
    return {{FUSE_GETATTR, s.file, body(getattr)},
            {FUSE_SETATTR, s.file, body(setattr)},
            {statx_opcode, s.file, body(no_flags, no_flags, s.opened_file, no_flags, no_flags)},
            {FUSE_ACCESS, s.file, body(fuse_access_in{.mask = R_OK})},
            {FUSE_SETXATTR, s.file, body(value_size, no_flags) + name_of("user.name") + "value"},
            {FUSE_GETXATTR, s.file, body(room) + name_of("user.name")},
            {FUSE_LISTXATTR, s.file, body(room)},
            {FUSE_REMOVEXATTR, s.file, name_of("user.name")}};
}

std::vector<Example> of_files(const Subjects& s) {
    const fuse_open_in open{.flags = O_RDWR};
    const fuse_read_in page{.fh = s.opened_file, .offset = 0, .size = 8192};
    const fuse_read_in read{.fh = s.opened_file,
                            .offset = 1,
                            .size = 8192,
                            .read_flags = FUSE_READ_LOCKOWNER,
                            .lock_owner = 7,
                            .flags = O_RDWR};
    const fuse_write_in write{.fh = s.opened_file, .offset = 2, .size = 3, .flags = O_RDWR};
    const fuse_write_in append{.fh = s.opened_file, .offset = 0, .size = 3, .flags = O_RDWR | O_APPEND};
    const fuse_write_in back{.fh = s.opened_file, .offset = 0, .size = 4096, .write_flags = FUSE_WRITE_CACHE};
    const fuse_fallocate_in hole{
        .fh = s.opened_file, .offset = 0, .length = 4096, .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE};
    const fuse_copy_file_range_in copy{
        .fh_in = s.opened_file, .nodeid_out = s.file, .fh_out = s.opened_file, .off_out = 8192, .len = 100};
    return {{FUSE_OPEN, s.file, body(open)},
            {FUSE_READ, s.file, body(page)},
            {FUSE_READ, s.file, body(read)},
            {FUSE_WRITE, s.file, body(write) + "abc"},
            {FUSE_WRITE, s.file, body(append) + "def"},
            {FUSE_WRITE, s.file, body(back) + std::string(4096, 'b')},
            {FUSE_FSYNC, s.file, body(fuse_fsync_in{.fh = s.opened_file})},
            {FUSE_FALLOCATE, s.file, body(hole)},
            {FUSE_LSEEK, s.file, body(fuse_lseek_in{.fh = s.opened_file, .whence = SEEK_DATA})},
            {FUSE_COPY_FILE_RANGE, s.file, body(copy)},
            {FUSE_FLUSH, s.file, body(fuse_flush_in{.fh = s.opened_file})},
            {FUSE_RELEASE, s.file, body(fuse_release_in{.fh = ~s.opened_file})},
            {FUSE_GETLK, s.file, body(fuse_lk_in{.fh = s.opened_file, .owner = 7, .lk = {.end = ~0ULL >> 1}})},
            {FUSE_SETLK, s.file, body(fuse_lk_in{.fh = s.opened_file, .owner = 7, .lk = {.type = F_WRLCK}})},
            {FUSE_SETLKW, s.file, body(fuse_lk_in{.fh = s.opened_file, .lk = {.type = F_UNLCK}})},
            {FUSE_BMAP, s.file, body(fuse_bmap_in{.block = 1, .blocksize = 4096})},
            {FUSE_IOCTL, s.file, body(fuse_ioctl_in{.fh = s.opened_file, .cmd = 0x5401, .in_size = 4}) + "1234"},
            {FUSE_POLL, s.file, body(fuse_poll_in{.fh = s.opened_file, .kh = 1})}};
}

std::vector<Example> of_directories(const Subjects& s) {
    const fuse_read_in read{.fh = s.opened_directory, .offset = 0, .size = 4096};
    return {{FUSE_OPENDIR, FUSE_ROOT_ID, body(fuse_open_in{.flags = O_RDONLY | O_DIRECTORY})},
            {FUSE_READDIR, FUSE_ROOT_ID, body(read)},
            {FUSE_READDIRPLUS, FUSE_ROOT_ID, body(read)},
            {FUSE_FSYNCDIR, FUSE_ROOT_ID, body(fuse_fsync_in{.fh = s.opened_directory})},
            {FUSE_RELEASEDIR, FUSE_ROOT_ID, body(fuse_release_in{.fh = ~s.opened_directory})}};
}

std::vector<Example> unanswered() {
    const fuse_forget_one one{.nodeid = ~std::uint64_t{0}, .nlookup = 1};
    return {{FUSE_FORGET, ~std::uint64_t{0}, body(fuse_forget_in{.nlookup = 1}), false},
            {FUSE_BATCH_FORGET, 0, body(fuse_batch_forget_in{.count = 2}, one, one), false},
            {FUSE_INTERRUPT, 0, body(fuse_interrupt_in{.unique = 1}), false}};
}

}  // namespace

std::vector<Example> examples(const Subjects& subjects) {
    std::vector<Example> all;
    for (auto&& some :
         {of_names(subjects), of_attributes(subjects), of_files(subjects), of_directories(subjects), unanswered()})
        all.insert(all.end(), some.begin(), some.end());
    return all;
}

}  // namespace nosigbus::test
