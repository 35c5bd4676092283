// Reading and writing the file behind a view, by descriptor.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>

namespace nosigbus {

struct PaddedRead {
    std::size_t real_bytes;  // how many bytes came from the file; the rest of the buffer is zeros
    int error;               // errno of the read that failed, or 0
};

// Fills `buffer` with what a load from the view at `offset` shows: the file's bytes, then zeros. Only ever pread(2)s: a
// READ that took the file's inode lock would deadlock with a client that writes from the view into the backing file,
// and a mapping of it would allocate its holes and could fault us.
PaddedRead read_padded(int fd, std::span<std::byte> buffer, off_t offset) noexcept;

// Stores `bytes` where the file has room for them now and drops the rest: a store in a mapping never grows a file. `fd`
// is open for reading and writing; where it is not, or its file system has no shared mappings, a write clipped at the
// size does the same but for a shrink, or such a client, at that very moment. Throws std::system_error when bytes
// inside the file could not be stored. Returns how many were.
std::size_t store_within(int fd, std::span<const std::byte> bytes, off_t offset);

}  // namespace nosigbus
