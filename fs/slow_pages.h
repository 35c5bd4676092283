// Pages of files whose file system may never answer, see SlowWork: a load gets zeros then, as from any file that cannot
// be read, and what the file has when it does answer soon after.
#pragma once

#include <cstddef>
#include <span>

#include "fs/file_system.h"
#include "fs/reply.h"
#include "lib/open_files.h"

namespace nosigbus {

// Answers with `size` bytes of pages of `file` at `offset`. Never throws.
void give_pages_slowly(FileSystem& fs, Reply& reply, const OpenFilePtr& file, std::size_t size, off_t offset) noexcept;

// Stores pages that are written back. EIO, which fsync(2) tells, where that takes too long. Throws std::bad_alloc.
void store_pages_slowly(FileSystem& fs, Reply& reply, const OpenFilePtr& file, std::span<const std::byte> bytes,
                        off_t offset);

}  // namespace nosigbus
