// A Wayland client that does its worst to whoever reads its frames: its pool is shorter than it says, shrinks, has
// holes, grows in words or in deeds, at any time and most of all while it is read. In the end it breaks the protocol,
// is sent away as it must be, and comes again.
//
// nosigbus_hostile_client KIND: of the file, as in connection.h. SIGTERM ends it after the connection it has; then it
// says how many frames it has committed. Exit status 1: the compositor did not do as a compositor must.
#include <fmt/format.h>
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "docs/examples/compositor/proof.h"
#include "tests/mount/files.h"
#include "tests/wayland/connection.h"
#include "tests/wayland/crimes.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr std::int32_t width = 128;
constexpr std::int32_t height = 96;
constexpr std::int32_t stride = width * 4;
constexpr std::int32_t frame_size = stride * height;
constexpr unsigned acts_of_a_life = 150;

volatile std::sig_atomic_t is_told_to_end = 0;

// Sizes that matter, for a pool of `size` bytes.
off_t some_size(std::int32_t size, std::mt19937& random) {
    const auto half_page = static_cast<off_t>(page / 2);
    switch (random() % 6) {
        case 0:
            return 0;
        case 1:
            return half_page;
        case 2:
            return size - half_page;
        case 3:
            return static_cast<off_t>(random() % static_cast<unsigned>(size));
        case 4:
            return size + half_page;
        default:
            return size;
    }
}

// A thread that has its way with the size of a file.
class Truncater {
  public:
    Truncater(int fd, std::int32_t size, unsigned seed)
        : thread_([=](const std::stop_token& stop) {
              std::mt19937 random(seed);
              while (!stop.stop_requested()) {
                  // A sealed file may refuse.
                  if (::ftruncate(fd, some_size(size, random)) != 0 && errno != EPERM) std::abort();
                  if (random() % 2 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 500));
              }
          }) {}

  private:
    std::jthread thread_;
};

// One connection.
class Life {
  public:
    Life(const std::string& kind, std::mt19937& random)
        : random_(random), file_(nameless_file(kind)), size_(2 * frame_size) {
        truncate(random_() % 2 == 0 ? size_ : some_size(size_, random_));
        pool_ = connection_.pool(file_.get(), size_);
    }

    // How many frames it has committed.
    unsigned live(const Crime& crime) {
        {
            const bool is_raging = random_() % 2 == 0;
            std::unique_ptr<Truncater> truncater;
            if (is_raging) truncater = std::make_unique<Truncater>(file_.get(), size_, random_());
            for (unsigned i = 0; i < acts_of_a_life; ++i) {
                act();
                if (i % 4 == 0) connection_.await_answer();
            }
        }
        connection_.await_answer();
        try {
            crime.commit(connection_, pool_.get(), size_);
            connection_.await_answer();
        } catch (const Disconnected& end) {
            if (connection_.error() == crime.error) return frames_;
            throw std::runtime_error(fmt::format("for {}: {}, instead of {}", crime.name, end.what(), crime.error));
        }
        throw std::runtime_error(fmt::format("the compositor has accepted {}", crime.name));
    }

  private:
    void act() {
        switch (random_() % 12) {
            case 0:
                truncate(some_size(size_, random_));
                break;
            case 1:
                truncate(0);
                commit();
                break;
            case 2:
                punch();
                commit();
                break;
            case 3:  // in deeds, then in words
                truncate(size_ + frame_size);
                wl_shm_pool_resize(pool_.get(), grown());
                break;
            case 4:  // in words alone
                wl_shm_pool_resize(pool_.get(), grown());
                break;
            case 5:
                lie();
                break;
            case 6:
                let_go();
                break;
            case 7:
                damage_nonsense();
                break;
            default:
                draw();
                commit();
        }
    }

    void truncate(off_t size) const {
        if (::ftruncate(file_.get(), size) != 0 && errno != EPERM) must(-1, "ftruncate");
    }

    void punch() const {
        const auto from = static_cast<off_t>(random_() % static_cast<unsigned>(size_));
        must(::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from, 1 + random_() % frame_size),
             "fallocate");
    }

    // A size for the pool that is not less than it has.
    std::int32_t grown() {
        if (size_ < 64 * frame_size) size_ += static_cast<std::int32_t>(random_() % frame_size);
        return size_;
    }

    void draw() const {
        std::vector<std::uint32_t> pixels(frame_size / 4, static_cast<std::uint32_t>(random_()));
        proof_put(pixels.data(), pixels.size(), static_cast<std::uint32_t>(random_()));
        must(::pwrite(file_.get(), pixels.data(), frame_size, 0), "pwrite");
    }

    [[nodiscard]] Buffer buffer(wl_shm_pool* pool, std::int32_t offset) const {
        return Buffer(wl_shm_pool_create_buffer(pool, offset, width, height, stride, WL_SHM_FORMAT_ARGB8888));
    }

    // The frame at the start of the pool, at its end, or somewhere.
    void commit() {
        const std::int32_t last = size_ - frame_size;
        const std::int32_t where[] = {0, last, static_cast<std::int32_t>(random_() % static_cast<unsigned>(last))};
        const Buffer frame = buffer(pool_.get(), where[random_() % 3]);
        connection_.commit(frame.get(), width, height);
        ++frames_;
    }

    // A pool as large as can be said, of a file with nothing in it.
    void lie() {
        const UniqueFd empty = nameless_file("memfd");
        constexpr std::int32_t most = std::numeric_limits<std::int32_t>::max();
        const Pool pool = connection_.pool(empty.get(), most);
        const Buffer frame = buffer(pool.get(), most - frame_size);
        connection_.commit(frame.get(), width, height);
        ++frames_;
    }

    // A buffer that is no more when the commit comes: there is nothing to be shown.
    void let_go() const {
        const Buffer frame = buffer(pool_.get(), 0);
        wl_surface_attach(connection_.surface(), frame.get(), 0, 0);
        wl_surface_damage(connection_.surface(), 0, 0, width, height);
    }

    void damage_nonsense() const {
        constexpr std::int32_t most = std::numeric_limits<std::int32_t>::max();
        constexpr std::int32_t least = std::numeric_limits<std::int32_t>::min();
        constexpr std::int32_t values[] = {least, -1, 0, 1, height, most};
        const auto any = [&] { return values[random_() % std::size(values)]; };
        wl_surface_damage(connection_.surface(), any(), any(), any(), any());
    }

    std::mt19937& random_;
    Connection connection_;
    UniqueFd file_;
    std::int32_t size_;  // as the compositor is told
    Pool pool_;
    unsigned frames_ = 0;
};

}  // namespace

int main(int argc, char** argv) try {
    if (argc != 2) throw std::runtime_error("usage: nosigbus_hostile_client KIND");
    std::signal(SIGTERM, [](int) { is_told_to_end = 1; });
    std::mt19937 random(std::random_device{}());
    unsigned long frames = 0;
    unsigned lives = 0;
    while (is_told_to_end == 0) {
        Life life(argv[1], random);
        frames += life.live(crimes()[lives++ % crimes().size()]);
    }
    fmt::print("{} connections, {} frames\n", lives, frames);
} catch (const std::exception& failure) {
    fmt::print(stderr, "nosigbus_hostile_client: {}\n", failure.what());
    return EXIT_FAILURE;
}
