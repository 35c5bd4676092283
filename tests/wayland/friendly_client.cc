// A Wayland client that draws as toolkits do: into a mapping of its own, one of two buffers after the other, now all of
// it and now a part; and now and then the window changes its size, for which the pool grows. No event tells anybody
// of what it draws. Each frame proves itself (docs/examples/compositor/proof.h), so the compositor knows whether it saw
// it.
//
// nosigbus_friendly_client KIND: of the file, as in connection.h. Goes on until a signal ends it.
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "docs/examples/compositor/proof.h"
#include "tests/mount/files.h"
#include "tests/wayland/connection.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

class Window {
  public:
    Window(Connection& connection, const std::string& kind) : connection_(connection), file_(nameless_file(kind)) {}
    Window(const Window&) = delete;
    Window& operator=(const Window&) = delete;
    ~Window() { unmap(); }

    void resize(std::size_t width, std::size_t height) {
        for (Half& half : halves_) half.buffer.reset();
        width_ = width;
        height_ = height;
        stride_ = (width + 3) * sizeof(std::uint32_t);  // more than a row takes
        canvas_.assign(width * height, 0);
        grow(2 * half_size());
        for (std::size_t i = 0; i < 2; ++i) {
            halves_[i].at = i * half_size();
            halves_[i].buffer.reset(wl_shm_pool_create_buffer(
                pool_.get(), static_cast<std::int32_t>(halves_[i].at), static_cast<std::int32_t>(width),
                static_cast<std::int32_t>(height), static_cast<std::int32_t>(stride_), format));
            static const wl_buffer_listener listener = {
                [](void* data, wl_buffer*) { static_cast<Half*>(data)->is_free = true; }};
            wl_buffer_add_listener(halves_[i].buffer.get(), &listener, &halves_[i]);
            halves_[i].is_free = true;
        }
        is_new_ = true;
    }

    // Changes the first rows of the picture, all of them where the window is new, and shows it.
    void draw(std::size_t rows, std::uint32_t number, std::mt19937& random) {
        if (is_new_) rows = height_;
        is_new_ = false;
        const std::uint32_t salt = random();
        for (std::size_t i = 0; i < rows * width_; ++i) canvas_[i] = salt + static_cast<std::uint32_t>(i) * 2654435761U;
        proof_put(canvas_.data(), canvas_.size(), number);
        Half& half = halves_[number % 2];
        while (!half.is_free) connection_.await_answer();
        for (std::size_t y = 0; y < height_; ++y)
            std::memcpy(mapping_ + half.at + y * stride_, &canvas_[y * width_], width_ * sizeof canvas_[0]);
        half.is_free = false;
        connection_.commit(half.buffer.get(), static_cast<std::int32_t>(width_), static_cast<std::int32_t>(rows));
        connection_.await_frame();
    }

  private:
    static constexpr std::uint32_t format = WL_SHM_FORMAT_XRGB8888;

    struct Half {
        Buffer buffer;
        std::size_t at = 0;
        bool is_free = true;
    };

    [[nodiscard]] std::size_t half_size() const { return stride_ * height_; }

    void grow(std::size_t size) {
        if (size <= size_) return;
        must(::ftruncate(file_.get(), static_cast<off_t>(size)), "ftruncate");
        unmap();
        mapping_ =
            static_cast<char*>(must(::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0), "mmap"));
        size_ = size;
        if (pool_)
            wl_shm_pool_resize(pool_.get(), static_cast<std::int32_t>(size));
        else
            pool_ = connection_.pool(file_.get(), static_cast<std::int32_t>(size));
    }

    void unmap() {
        if (mapping_ != nullptr) ::munmap(mapping_, size_);
    }

    Connection& connection_;
    UniqueFd file_;
    Pool pool_;
    Half halves_[2];
    char* mapping_ = nullptr;
    std::size_t size_ = 0;
    std::size_t width_ = 0;
    std::size_t height_ = 0;
    std::size_t stride_ = 0;
    bool is_new_ = true;
    std::vector<std::uint32_t> canvas_;
};

}  // namespace

int main(int argc, char** argv) try {
    if (argc != 2) throw std::runtime_error("usage: nosigbus_friendly_client KIND");
    Connection connection;
    Window window(connection, argv[1]);
    std::mt19937 random(static_cast<unsigned>(::getpid()));
    for (std::uint32_t number = 1;; ++number) {
        if (number % 64 == 1) window.resize(64 + random() % 400, 64 + random() % 400);
        window.draw(1 + random() % 64, number, random);
    }
} catch (const std::exception& failure) {
    fmt::print(stderr, "nosigbus_friendly_client: {}\n", failure.what());
    return EXIT_FAILURE;
}
