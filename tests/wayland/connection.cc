#include "tests/wayland/connection.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <string_view>

#include "tests/mount/files.h"

namespace nosigbus::test {

Connection::Connection() : display_(wl_display_connect(nullptr)) {
    if (!display_) throw std::runtime_error("no compositor answers");
    registry_.reset(wl_display_get_registry(display_.get()));
    static const wl_registry_listener listener = {add_global, [](void*, wl_registry*, std::uint32_t) {}};
    wl_registry_add_listener(registry_.get(), &listener, this);
    await_answer();
    if (!compositor_ || !shm_) throw std::runtime_error("the compositor has not what it takes");
    surface_.reset(wl_compositor_create_surface(compositor_.get()));
}

void Connection::add_global(void* data, wl_registry* registry, std::uint32_t name, const char* interface,
                            std::uint32_t /*version*/) {
    auto& self = *static_cast<Connection*>(data);
    const std::string_view kind = interface;
    if (kind == "wl_compositor") {
        self.compositor_.reset(
            static_cast<wl_compositor*>(wl_registry_bind(registry, name, &wl_compositor_interface, 1)));
    }
    if (kind == "wl_shm") self.shm_.reset(static_cast<wl_shm*>(wl_registry_bind(registry, name, &wl_shm_interface, 1)));
}

void Connection::commit(wl_buffer* buffer, std::int32_t width, std::int32_t damage) {
    frame_.reset(wl_surface_frame(surface_.get()));
    // Once it is done the object is gone, too.
    static const wl_callback_listener listener = {
        [](void* data, wl_callback*, std::uint32_t) { static_cast<Connection*>(data)->frame_.reset(); }};
    wl_callback_add_listener(frame_.get(), &listener, this);
    wl_surface_attach(surface_.get(), buffer, 0, 0);
    wl_surface_damage(surface_.get(), 0, 0, width, damage);
    wl_surface_commit(surface_.get());
}

void Connection::await_answer() {
    if (wl_display_roundtrip(display_.get()) < 0) fail();
}

void Connection::await_frame() {
    while (frame_) {
        if (wl_display_dispatch(display_.get()) < 0) fail();
    }
}

void Connection::fail() {
    throw Disconnected(fmt::format("the compositor has ended the connection: {} {}",
                                   std::strerror(wl_display_get_error(display_.get())), error()));
}

std::string Connection::error() const {
    if (wl_display_get_error(display_.get()) != EPROTO) return {};
    const wl_interface* interface = nullptr;
    const std::uint32_t code = wl_display_get_protocol_error(display_.get(), &interface, nullptr);
    return fmt::format("{} {}", interface != nullptr ? interface->name : "?", code);
}

UniqueFd nameless_file(const std::string& kind) {
    if (kind == "memfd" || kind == "sealed") {
        UniqueFd file(must(::memfd_create("pool", MFD_CLOEXEC | MFD_ALLOW_SEALING), "memfd_create"));
        if (kind == "sealed") must(::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK), "F_ADD_SEALS");
        return file;
    }
    if (kind == "tmpfile") return UniqueFd(must(::open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600), "O_TMPFILE"));
    if (kind != "shm") throw std::runtime_error("no such kind of file: " + kind);
    const std::string name = fmt::format("/nosigbus-client-{}", ::getpid());
    UniqueFd file(must(::shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600), "shm_open"));
    must(::shm_unlink(name.c_str()), "shm_unlink");
    return file;
}

}  // namespace nosigbus::test
