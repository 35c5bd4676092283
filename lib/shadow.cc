#include "lib/shadow.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "lib/backing_file.h"
#include "lib/page_digest.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

constexpr std::size_t copy_window = std::size_t{256} << 10;  // twice that stays in the processor's cache

bool is_zero(std::span<const std::byte> bytes) {
    return bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

// Throws also where only a part could be written: for want of memory.
void put(int shadow, std::span<const std::byte> bytes, off_t offset) {
    while (!bytes.empty()) {
        const std::size_t n = sys::write_at(shadow, bytes, offset);
        bytes = bytes.subspan(n);
        offset += static_cast<off_t>(n);
    }
}

void punch(int shadow, off_t offset, off_t length) {
    sys::check(::fallocate(shadow, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length), "fallocate");
}

// What is to be done to a page of the shadow.
enum class Change { none, copy, punch };

}  // namespace

UniqueFd make_shadow(off_t view_size) {
    UniqueFd shadow(sys::check(::memfd_create("nosigbus-shadow", MFD_CLOEXEC | MFD_ALLOW_SEALING), "memfd_create"));
    sys::check(::ftruncate(shadow.get(), view_size), "ftruncate");
    sys::check(::fcntl(shadow.get(), F_ADD_SEALS, F_SEAL_SHRINK), "fcntl: F_ADD_SEALS");
    return shadow;
}

// The kernel grants a lease for writing only where nobody else has the file open (check_conflicting_open), which a
// mapping does. It counts readers, and a memfd's own descriptor for neither.
bool is_in_use(int shadow) noexcept {
    try {
        const UniqueFd reader = sys::reopen(shadow, O_RDONLY);
        if (::fcntl(reader.get(), F_SETLEASE, F_WRLCK) != 0) return true;
        ::fcntl(reader.get(), F_SETLEASE, F_UNLCK);
        return false;
    } catch (const std::system_error&) {
        return true;
    }
}

std::uint64_t memory_of_shadow(int shadow) {
    struct stat attributes {};
    sys::check(sys::look(shadow, attributes) ? 0 : -1, "fstat");
    constexpr std::uint64_t block = 512;  // stat(2): st_blocks
    return static_cast<std::uint64_t>(attributes.st_blocks) * block;
}

ShadowCopier::ShadowCopier() : now_(copy_window), before_(copy_window) {}

ShadowCopier::Step ShadowCopier::copy(int file, int shadow, off_t offset, std::size_t length) {
    Step step;
    const std::size_t page = page_size();
    for (std::size_t done = 0; done < length; done += copy_window) {
        const std::size_t part = std::min(copy_window, length - done);
        const off_t at = offset + static_cast<off_t>(done);
        const std::span now = std::span(now_).first(part);
        const std::span before = std::span(before_).first(part);
        if (const PaddedRead read = read_padded(file, now, at); read.error != 0) step.error = read.error;
        static_cast<void>(read_padded(shadow, before, at));  // of memory: it does not fail
        const auto change_of = [&](std::size_t i) {
            const auto bytes = now.subspan(i, page);
            if (std::memcmp(bytes.data(), before.data() + i, page) == 0) return Change::none;
            return is_zero(bytes) ? Change::punch : Change::copy;
        };
        for (std::size_t i = 0; i < part;) {
            const Change change = change_of(i);
            std::size_t end = i + page;
            while (end < part && change_of(end) == change) end += page;
            const auto where = at + static_cast<off_t>(i);
            if (change == Change::copy) {
                put(shadow, now.subspan(i, end - i), where);
                step.copied += (end - i) / page;
            } else if (change == Change::punch) {
                punch(shadow, where, static_cast<off_t>(end - i));
                step.punched += (end - i) / page;
            }
            i = end;
        }
        step.compared += part / page;
    }
    return step;
}

void grow_shadow(int shadow, off_t view_size) {
    if (sys::file_size(shadow) < view_size) sys::check(::ftruncate(shadow, view_size), "ftruncate");
}

void cut_shadow(int shadow, off_t offset) {
    // The kernel clears the part of a page itself (shmem_truncate_range).
    const off_t size = sys::file_size(shadow);
    if (offset < size) punch(shadow, offset, size - offset);
}

}  // namespace nosigbus
