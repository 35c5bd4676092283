// Looks at open files from time to time, for changes that inotify(7) does not tell of: libaio writes and loop devices
// date the file without an event, and where there was no watch left nothing does. What does not even date the file, a
// store through somebody's mapping, is found only where the user asks for it (refresh=): then views are compared.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "lib/change_watcher.h"
#include "lib/counters.h"
#include "lib/node_table.h"

namespace nosigbus {

class Sweeper {
  public:
    static constexpr std::chrono::milliseconds interval{1000};
    static constexpr std::chrono::milliseconds unwatched_interval{100};

    // `changed` is called on the sweeper's thread for each open node whose file looks different, and every `refresh`,
    // where that is not 0, for each open node. `watcher` knows which they are.
    Sweeper(const ChangeWatcher& watcher, std::function<void(const NodePtr&)> changed,
            std::chrono::milliseconds refresh, Counters& counters);
    Sweeper(const Sweeper&) = delete;
    Sweeper& operator=(const Sweeper&) = delete;
    ~Sweeper() { stop(); }

    void start();
    void stop();

  private:
    using Clock = std::chrono::steady_clock;

    // Something to be done again and again.
    struct Round {
        std::chrono::milliseconds every;
        Clock::time_point next;
        void (Sweeper::*act)();
    };

    void run();
    void sweep();
    void sweep_unwatched();
    void refresh_all();
    void look_at(const std::vector<NodePtr>& nodes);

    const ChangeWatcher& watcher_;
    const std::function<void(const NodePtr&)> changed_;
    const std::chrono::milliseconds refresh_;
    Counters& counters_;
    std::mutex mutex_;
    std::condition_variable woken_;
    bool stopping_ = false;
    std::thread thread_;
};

}  // namespace nosigbus
