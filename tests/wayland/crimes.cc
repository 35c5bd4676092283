#include "tests/wayland/crimes.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <array>
#include <limits>

#include "tests/mount/files.h"

namespace nosigbus::test {
namespace {

constexpr std::int32_t most = std::numeric_limits<std::int32_t>::max();
constexpr std::int32_t least = std::numeric_limits<std::int32_t>::min();
constexpr const char* invalid_pool_size = "wl_shm 1";
constexpr const char* invalid_file = "wl_shm 2";
constexpr const char* invalid_format = "wl_shm_pool 0";
constexpr const char* invalid_buffer = "wl_shm_pool 1";
constexpr const char* invalid_pool = "wl_shm_pool 2";

template <std::int32_t size>
void make_pool_of_size(Connection& connection, wl_shm_pool* /*pool*/, std::int32_t /*size*/) {
    const Pool pool = connection.pool(nameless_file("memfd").get(), size);
}

void send(const Connection& connection, const UniqueFd& file) {
    const Pool pool = connection.pool(file.get(), static_cast<std::int32_t>(page));
}

UniqueFd open(const char* path, int flags) {
    return UniqueFd(must(::open(path, flags | O_CLOEXEC, 0600), path));
}

// From the start of the pool on, or beside it.
void make_buffer(wl_shm_pool* pool, std::int32_t offset, std::int32_t width, std::int32_t height, std::int32_t stride,
                 std::uint32_t format = WL_SHM_FORMAT_ARGB8888) {
    wl_buffer_destroy(wl_shm_pool_create_buffer(pool, offset, width, height, stride, format));
}

template <std::int32_t offset, std::int32_t width, std::int32_t height, std::int32_t stride>
void make_buffer_of(Connection& /*connection*/, wl_shm_pool* pool, std::int32_t /*size*/) {
    make_buffer(pool, offset, width, height, stride);
}

}  // namespace

const std::vector<Crime>& crimes() {
    static const std::vector<Crime> all = {
        {"a pool of no bytes", invalid_pool_size, make_pool_of_size<0>},
        {"a pool of a negative size", invalid_pool_size, make_pool_of_size<-1>},
        {"a pool of the most negative size", invalid_pool_size, make_pool_of_size<least>},
        {"a pipe", invalid_file,
         [](Connection& connection, wl_shm_pool*, std::int32_t) {
             std::array<int, 2> ends{};
             must(::pipe2(ends.data(), O_CLOEXEC), "pipe2");
             const UniqueFd reading(ends[0]);
             const UniqueFd writing(ends[1]);
             send(connection, reading);
         }},
        {"a directory", invalid_file,
         [](Connection& connection, wl_shm_pool*, std::int32_t) {
             send(connection, open("/", O_RDONLY | O_DIRECTORY));
         }},
        {"an eventfd", invalid_file,
         [](Connection& connection, wl_shm_pool*, std::int32_t) {
             send(connection, UniqueFd(must(::eventfd(0, EFD_CLOEXEC), "eventfd")));
         }},
        {"a descriptor that only names a file", invalid_file,
         [](Connection& connection, wl_shm_pool*, std::int32_t) { send(connection, open("/proc/self/exe", O_PATH)); }},
        {"a file that may only be written", invalid_file,
         [](Connection& connection, wl_shm_pool*, std::int32_t) {
             send(connection, open("/dev/shm", O_TMPFILE | O_WRONLY));
         }},
        {"another format", invalid_format,
         [](Connection&, wl_shm_pool* pool, std::int32_t) { make_buffer(pool, 0, 4, 4, 16, WL_SHM_FORMAT_NV12); }},
        {"a buffer before its pool", invalid_buffer, make_buffer_of<-4, 4, 4, 16>},
        {"a buffer without columns", invalid_buffer, make_buffer_of<0, 0, 4, 16>},
        {"a buffer without rows", invalid_buffer, make_buffer_of<0, 4, 0, 16>},
        {"a buffer of negative rows", invalid_buffer, make_buffer_of<0, 4, -4, 16>},
        {"rows that overlap", invalid_buffer, make_buffer_of<0, 4, 4, 15>},
        {"rows that go backwards", invalid_buffer, make_buffer_of<0, 4, 4, -16>},
        {"a width whose bytes wrap around", invalid_buffer, make_buffer_of<0, 1 << 30, 4, 16>},
        {"a height whose bytes wrap around", invalid_buffer, make_buffer_of<0, 4, 1 << 28, 16>},
        {"a stride whose rows wrap around", invalid_buffer, make_buffer_of<0, 4, 4, most>},
        {"all of it as large as can be", invalid_buffer, make_buffer_of<most, most, most, most>},
        {"a buffer a byte past its pool", invalid_buffer,
         [](Connection&, wl_shm_pool* pool, std::int32_t size) { make_buffer(pool, size - 63, 4, 4, 16); }},
        {"a pool that shrinks", invalid_pool,
         [](Connection&, wl_shm_pool* pool, std::int32_t size) { wl_shm_pool_resize(pool, size - 1); }},
        {"a pool that shrinks below nothing", invalid_pool,
         [](Connection&, wl_shm_pool* pool, std::int32_t) { wl_shm_pool_resize(pool, -1); }},
    };
    return all;
}

}  // namespace nosigbus::test
