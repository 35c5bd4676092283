// A thread that loads from a mapping for as long as something else goes on.
#pragma once

#include <atomic>
#include <thread>

#include "tests/mount/eventually.h"
#include "tests/mount/mapping.h"

namespace nosigbus::test {

// Loads a byte of each page of the mapping, over and over, and counts.
class Loading {
  public:
    // Returns when the first load is about to begin.
    explicit Loading(const Mapping& mapping)
        : thread_([this, &mapping] {
              while (!over_) {
                  running_ = true;
                  if (mapping.touch() < mapping.size() / page) ++faults_;
                  ++rounds_;
              }
          }) {
        while (!running_) std::this_thread::yield();
    }
    Loading(const Loading&) = delete;
    Loading& operator=(const Loading&) = delete;
    ~Loading() {
        over_ = true;
        thread_.join();
    }

    [[nodiscard]] long rounds() const { return rounds_; }

    // Rounds that ended early, at a fault.
    [[nodiscard]] long faults() const { return faults_; }

    // Waits until a round that began after this call is over. False where none is, within our patience.
    [[nodiscard]] bool goes_round() const {
        const long wanted = rounds_ + 2;
        return eventually([&] { return rounds_ >= wanted; });
    }

  private:
    std::atomic<bool> running_ = false;
    std::atomic<bool> over_ = false;
    std::atomic<long> rounds_ = 0;
    std::atomic<long> faults_ = 0;
    std::thread thread_;
};

}  // namespace nosigbus::test
