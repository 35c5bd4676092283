// Writing by libaio.
#pragma once

#include <cstddef>
#include <string>

namespace nosigbus::test {

// Writes `bytes` at `offset` with io_submit(2) and waits for it. Throws where that fails or writes less.
void aio_write(int fd, std::size_t offset, std::string bytes);

}  // namespace nosigbus::test
