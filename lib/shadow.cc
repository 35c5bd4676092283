#include "lib/shadow.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <mutex>
#include <shared_mutex>
#include <system_error>
#include <utility>

#include "lib/backing_file.h"
#include "lib/fault_point.h"
#include "lib/holes.h"
#include "lib/page_digest.h"
#include "lib/pulse.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

constexpr std::size_t window = std::size_t{256} << 10;  // twice that stays in the processor's cache

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
enum class Change { none, copy, punch, leave_out };

}  // namespace

UniqueFd make_shadow(off_t view_size) {
    // linux/memfd.h of Linux 6.3; it can be sealed then.
    constexpr unsigned noexec_seal = 8;  // MFD_NOEXEC_SEAL
    UniqueFd shadow(sys::check(::memfd_create("nosigbus-shadow", MFD_CLOEXEC | noexec_seal), "memfd_create"));
    // Who finds it in /proc is to be root, as for the memory of any other process.
    sys::check(::fchmod(shadow.get(), S_IRUSR), "fchmod");
    sys::check(::ftruncate(shadow.get(), view_size), "ftruncate");
    sys::check(::fcntl(shadow.get(), F_ADD_SEALS, F_SEAL_SHRINK), "fcntl: F_ADD_SEALS");
    return shadow;
}

void Shadow::grow(off_t view_size) {
    const auto lock = lock_parked<std::unique_lock<std::shared_mutex>>(changing_);
    if (sys::file_size(descriptor()) < view_size) sys::check(::ftruncate(descriptor(), view_size), "ftruncate");
}

Shadow::Ends Shadow::cut(int file) {
    const auto lock = lock_parked<std::unique_lock<std::shared_mutex>>(changing_);
    // Under the lock: what it may have been before has nothing to do with what was copied since.
    const off_t real_size = sys::file_size(file);
    // The kernel clears the part of a page itself (shmem_truncate_range).
    const off_t size = sys::file_size(descriptor());
    if (real_size < shown_size_ && real_size < size) punch(descriptor(), real_size, size - real_size);
    const off_t before = shown_size_.exchange(real_size);
    const bool is_known = std::exchange(is_end_known_, true);
    return {.before = before, .now = real_size, .lost = is_known ? std::max<off_t>(before - real_size, 0) : 0};
}

void Shadow::free_tail() {
    const std::unique_lock lock(changing_, std::try_to_lock);
    if (!lock) return;
    const auto page = static_cast<off_t>(page_size());
    const off_t behind = (shown_size_ + page - 1) / page * page;
    const off_t size = sys::file_size(descriptor());
    if (behind < size) punch(descriptor(), behind, size - behind);
}

std::uint64_t Shadow::memory() const {
    struct stat attributes {};
    sys::check(sys::look(descriptor(), attributes) ? 0 : -1, "fstat");
    constexpr std::uint64_t block = 512;  // stat(2): st_blocks
    return static_cast<std::uint64_t>(attributes.st_blocks) * block;
}

// The kernel grants a lease for writing only where nobody else has the file open (check_conflicting_open), which a
// mapping does. It counts readers, and a memfd's own descriptor for neither.
bool Shadow::is_in_use() const noexcept {
    try {
        const UniqueFd reader = sys::reopen(descriptor(), O_RDONLY);
        if (::fcntl(reader.get(), F_SETLEASE, F_WRLCK) != 0) return true;
        ::fcntl(reader.get(), F_SETLEASE, F_UNLCK);
        return false;
    } catch (const std::system_error&) {
        return true;
    }
}

// So that it can be compared as it stands. Where that is not to be had it is read.
void Shadow::map(std::uint64_t end) {
    // Addresses are scarce where they have 32 bits, and so are mappings (vm.max_map_count).
    constexpr off_t worth_mapping = off_t{1} << 20;
    if (sizeof(void*) < sizeof(std::uint64_t) || shown_size_ < worth_mapping || mapped_.size() >= end) return;
    constexpr std::uint64_t step = std::uint64_t{64} << 20;
    const auto size = static_cast<std::uint64_t>(sys::file_size(descriptor()));
    try {
        mapped_ = MappedRegion(std::min(size, (end + step - 1) / step * step), PROT_READ, MAP_SHARED, descriptor(), 0);
    } catch (const std::system_error&) {
        mapped_ = {};
    }
}

void Shadow::copied_up_to(off_t end) {
    off_t before = shown_size_;
    while (before < end && !shown_size_.compare_exchange_weak(before, end)) {
    }
}

ShadowCopier::ShadowCopier(Crew& crew) : crew_(crew), workers_(crew.size()) {
    for (Worker& worker : workers_) {
        worker.now.resize(window);
        worker.before.resize(window);
    }
}

std::uint64_t ShadowCopier::holes(int file, const Shadow& shadow, off_t offset, std::uint64_t length) {
    constexpr std::uint64_t least = std::uint64_t{64} << 10;
    constexpr std::uint64_t most = std::uint64_t{1} << 30;
    const Holes of_file(file);
    const Holes& of_shadow = shadow.holes_;
    std::uint64_t found = 0;
    while (found < length) {
        // Twice as far each time: to ask takes as long as there is data.
        const std::uint64_t part = std::min(length - found, std::clamp(found, least, most));
        const auto at = offset + static_cast<off_t>(found);
        if (of_file.may_have_data(at, static_cast<off_t>(part)) ||
            of_shadow.may_have_data(at, static_cast<off_t>(part)))
            break;
        found += part;
    }
    return found;
}

ShadowCopier::Step ShadowCopier::copy(int file, Shadow& shadow, off_t offset, std::uint64_t length) {
    shadow.map(static_cast<std::uint64_t>(offset) + length);
    for (Worker& worker : workers_) {
        worker.step = {};
        worker.failure = {};
    }
    const auto copy_part = [&](std::size_t part, unsigned who) {
        Worker& worker = workers_[who];
        if (worker.failure) return;
        const std::uint64_t done = part * window;
        const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(window, length - done));
        try {
            copy_window(file, shadow, offset + static_cast<off_t>(done), size, worker);
        } catch (...) {
            worker.failure = std::current_exception();
        }
    };
    const auto parts = static_cast<std::size_t>((length + window - 1) / window);
    if (length < Crew::worth_sharing * page_size()) {
        for (std::size_t part = 0; part < parts; ++part) copy_part(part, 0);
    } else {
        crew_.run(parts, copy_part);
    }
    Step all;
    for (const Worker& worker : workers_) {
        if (worker.failure) std::rethrow_exception(worker.failure);
        all.compared += worker.step.compared;
        all.copied += worker.step.copied;
        all.punched += worker.step.punched;
        all.left_out += worker.step.left_out;
        if (worker.step.error != 0) all.error = worker.step.error;
    }
    return all;
}

void ShadowCopier::copy_window(int file, Shadow& shadow, off_t at, std::size_t length, Worker& worker) {
    const std::size_t page = page_size();
    Step& step = worker.step;
    const auto lock = lock_parked<std::shared_lock<std::shared_mutex>>(shadow.changing_);
    const PaddedRead read = read_padded(file, std::span(worker.now).first(length), at);
    if (read.error != 0) {
        step.error = read.error;
        // Whatever the rest was when it could be read is better than zeros.
        length = read.real_bytes / page * page;
        if (length == 0) return;
    }
    const std::span now = std::span(worker.now).first(length);
    const off_t real_end = at + static_cast<off_t>(read.real_bytes);
    const auto data = shadow.holes_.pages_with_data(at, static_cast<off_t>(length));
    const bool was_hole = data == 0U;
    const bool is_data = data == length / page;
    std::span<const std::byte> before;
    // To load a hole would give it memory.
    if (is_data && shadow.mapped_.size() >= static_cast<std::uint64_t>(at) + length) {
        before = {shadow.mapped_.data() + at, length};
    } else if (!was_hole) {
        const auto copy = std::span(worker.before).first(length);
        static_cast<void>(read_padded(shadow.descriptor(), copy, at));  // of memory: it does not fail
        before = copy;
    }
    const auto change_of = [&](std::size_t i) {
        const auto bytes = now.subspan(i, page);
        const Change takes_memory = shadow.may_take_more ? Change::copy : Change::leave_out;
        if (was_hole) return is_zero(bytes) ? Change::none : takes_memory;
        if (std::memcmp(bytes.data(), before.data() + i, page) == 0) return Change::none;
        if (is_zero(bytes)) return Change::punch;
        // A page that is not zeros has memory.
        return is_data || !is_zero(before.subspan(i, page)) ? Change::copy : takes_memory;
    };
    for (std::size_t i = 0; i < length;) {
        const Change change = change_of(i);
        std::size_t end = i + page;
        while (end < length && change_of(end) == change) end += page;
        const auto where = at + static_cast<off_t>(i);
        fault_point("shadow.copy");
        if (change == Change::leave_out) {
            step.left_out += (end - i) / page;
        } else if (change == Change::copy) {
            shadow.copied_up_to(std::min(where + static_cast<off_t>(end - i), real_end));
            put(shadow.descriptor(), now.subspan(i, end - i), where);
            step.copied += (end - i) / page;
        } else if (change == Change::punch) {
            punch(shadow.descriptor(), where, static_cast<off_t>(end - i));
            step.punched += (end - i) / page;
        }
        i = end;
    }
    step.compared += length / page;
}

}  // namespace nosigbus
