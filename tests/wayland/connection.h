// A Wayland client's connection: one surface, and files whose pixels it shows there.
#pragma once

#include <wayland-client.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "lib/unique_fd.h"

namespace nosigbus::test {

// The compositor has ended the connection. For what error it gave, or for none.
struct Disconnected : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Destroy {
    void operator()(wl_display* object) const { wl_display_disconnect(object); }
    void operator()(wl_registry* object) const { wl_registry_destroy(object); }
    void operator()(wl_compositor* object) const { wl_compositor_destroy(object); }
    void operator()(wl_shm* object) const { wl_shm_destroy(object); }
    void operator()(wl_shm_pool* object) const { wl_shm_pool_destroy(object); }
    void operator()(wl_buffer* object) const { wl_buffer_destroy(object); }
    void operator()(wl_surface* object) const { wl_surface_destroy(object); }
    void operator()(wl_callback* object) const { wl_callback_destroy(object); }
};
template <typename Object>
using Owned = std::unique_ptr<Object, Destroy>;
using Pool = Owned<wl_shm_pool>;
using Buffer = Owned<wl_buffer>;

class Connection {
  public:
    // To the compositor at $WAYLAND_DISPLAY. Throws std::runtime_error where there is none.
    Connection();
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    [[nodiscard]] Pool pool(int fd, std::int32_t size) const { return Pool(wl_shm_create_pool(shm_.get(), fd, size)); }

    // Puts the rows [0, damage) of the buffer on the surface, and asks to be told when they are seen.
    void commit(wl_buffer* buffer, std::int32_t width, std::int32_t damage);
    [[nodiscard]] wl_surface* surface() const { return surface_.get(); }

    // Waits until the compositor has done all that it was asked for. Throws Disconnected.
    void await_answer();
    // Waits until the frame that was committed last has been seen. Throws Disconnected.
    void await_frame();

    // The protocol error that ended the connection, as its number in the interface, such as "wl_shm 2"; empty where
    // there is none.
    [[nodiscard]] std::string error() const;

  private:
    static void add_global(void* data, wl_registry* registry, std::uint32_t name, const char* interface,
                           std::uint32_t version);
    void fail();

    Owned<wl_display> display_;
    Owned<wl_registry> registry_;
    Owned<wl_compositor> compositor_;
    Owned<wl_shm> shm_;
    Owned<wl_surface> surface_;
    Owned<wl_callback> frame_;
};

// A file without a name, as clients make them: "memfd"; "sealed", a memfd that can grow but not shrink; "shm",
// made by shm_open(3) and unlinked; "tmpfile", by O_TMPFILE in /dev/shm.
UniqueFd nameless_file(const std::string& kind);

}  // namespace nosigbus::test
