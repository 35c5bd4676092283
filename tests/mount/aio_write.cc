#include "tests/mount/aio_write.h"

#include <libaio.h>

#include <memory>
#include <stdexcept>
#include <system_error>

namespace nosigbus::test {

namespace {

// libaio's functions return the negative errno.
void must_succeed(int result, const char* call) {
    if (result < 0) throw std::system_error(-result, std::generic_category(), call);
}

}  // namespace

void aio_write(int fd, std::size_t offset, std::string bytes) {
    io_context_t context = nullptr;
    must_succeed(::io_setup(1, &context), "io_setup");
    const std::unique_ptr<std::remove_pointer_t<io_context_t>, int (*)(io_context_t)> destroyed_at_the_end(
        context, ::io_destroy);
    iocb request{};
    ::io_prep_pwrite(&request, fd, bytes.data(), bytes.size(), static_cast<long long>(offset));
    iocb* requests[] = {&request};
    must_succeed(::io_submit(context, 1, requests), "io_submit");
    io_event event{};
    must_succeed(::io_getevents(context, 1, 1, &event, nullptr), "io_getevents");
    if (static_cast<long>(event.res) < 0) must_succeed(static_cast<int>(event.res), "io_submit of a write");
    if (event.res != bytes.size()) throw std::runtime_error("a short write by libaio");
}

}  // namespace nosigbus::test
