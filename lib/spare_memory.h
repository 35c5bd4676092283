// A little memory that each thread keeps for what must not fail where there is none left: a page to be read or written
// back, a FORGET, a RELEASE, the barrier.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <new>

namespace nosigbus {

// In the thread's own arena, where its next allocation finds it: malloc(3).
class SpareMemory {
  public:
    static SpareMemory& of_this_thread() noexcept {
        thread_local SpareMemory spare;
        return spare;
    }

    void keep() noexcept {
        if (block_) return;
        try {
            block_ = std::make_unique<Block>();
        } catch (const std::bad_alloc&) {
            // There will be some for the next request.
        }
    }
    void give_up() noexcept { block_.reset(); }

  private:
    using Block = std::array<std::byte, 4096>;
    std::unique_ptr<Block> block_;
};

// body(), and once more, with what this thread kept, where it had no memory.
template <typename Body>
auto with_spare_memory(Body body) {
    try {
        return body();
    } catch (const std::bad_alloc&) {
        SpareMemory::of_this_thread().give_up();
        return body();
    }
}

}  // namespace nosigbus
