#include "tests/mount/io_uring_read.h"

#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "lib/unique_fd.h"
#include "tests/mount/mapping.h"

namespace nosigbus::test {

namespace {

std::uint32_t* word_at(const Mapping& ring, std::uint32_t offset) {
    return reinterpret_cast<std::uint32_t*>(ring.data() + offset);
}

}  // namespace

ssize_t io_uring_pread(int fd, void* buffer, std::size_t length, off_t offset) {
    io_uring_params parameters{};
    const UniqueFd ring(static_cast<int>(::syscall(SYS_io_uring_setup, 1, &parameters)));
    if (!ring) return -1;
    constexpr int read_write = PROT_READ | PROT_WRITE;
    const std::size_t submissions_size = parameters.sq_off.array + parameters.sq_entries * sizeof(std::uint32_t);
    const std::size_t completions_size = parameters.cq_off.cqes + parameters.cq_entries * sizeof(io_uring_cqe);
    const Mapping submissions(ring.get(), submissions_size, read_write, MAP_SHARED, IORING_OFF_SQ_RING);
    const Mapping completions(ring.get(), completions_size, read_write, MAP_SHARED, IORING_OFF_CQ_RING);
    const Mapping entries(ring.get(), parameters.sq_entries * sizeof(io_uring_sqe), read_write, MAP_SHARED,
                          IORING_OFF_SQES);

    auto& entry = *reinterpret_cast<io_uring_sqe*>(entries.data());
    entry.opcode = IORING_OP_READ;
    entry.fd = fd;
    entry.addr = reinterpret_cast<std::uintptr_t>(buffer);  // as it is: a pointer of 32 bits would be sign-extended
    entry.len = static_cast<std::uint32_t>(length);
    entry.off = static_cast<std::uint64_t>(offset);
    *word_at(submissions, parameters.sq_off.array) = 0;
    std::atomic_ref(*word_at(submissions, parameters.sq_off.tail)).store(1, std::memory_order_release);
    if (::syscall(SYS_io_uring_enter, ring.get(), 1, 1, IORING_ENTER_GETEVENTS, nullptr, 0) != 1) return -1;

    if (std::atomic_ref(*word_at(completions, parameters.cq_off.tail)).load(std::memory_order_acquire) != 1) {
        errno = EPROTO;
        return -1;
    }
    io_uring_cqe completion{};
    std::memcpy(&completion, completions.data() + parameters.cq_off.cqes, sizeof completion);
    if (completion.res >= 0) return completion.res;
    errno = -completion.res;
    return -1;
}

}  // namespace nosigbus::test
