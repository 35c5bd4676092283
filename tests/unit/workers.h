// Workers that die: each in a process of its own that shares our descriptors, as a supervisor starts them.
#pragma once

#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <exception>
#include <filesystem>
#include <functional>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "lib/change_watcher.h"
#include "lib/deeds.h"
#include "lib/fault_point.h"
#include "lib/node_table.h"
#include "lib/open_files.h"
#include "lib/shared_state.h"
#include "lib/syscalls.h"
#include "lib/unanswered.h"
#include "tests/unit/temporary.h"

namespace nosigbus::test {

inline std::vector<int> open_descriptors() {
    std::vector<int> found;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
        found.push_back(std::stoi(entry.path().filename()));
    std::sort(found.begin(), found.end());
    return found;
}

inline bool is_open(int descriptor) {
    return ::fcntl(descriptor, F_GETFD) >= 0;
}

// Closes in the end what nobody else has: what workers that died had open. To be made before all other things.
class NoStrays {
  public:
    NoStrays() : before_(open_descriptors()) {}
    NoStrays(const NoStrays&) = delete;
    NoStrays& operator=(const NoStrays&) = delete;
    ~NoStrays() { close(); }

    void close() const {
        for (const int descriptor : open_descriptors()) {
            if (!std::binary_search(before_.begin(), before_.end(), descriptor)) ::close(descriptor);
        }
    }

  private:
    std::vector<int> before_;
};

// A value that processes started from here on share.
template <typename T>
class Shared {
  public:
    Shared() : region_(sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) {
        new (region_.data()) T{};
    }
    T& operator*() const { return *reinterpret_cast<T*>(region_.data()); }
    T* operator->() const { return &**this; }

  private:
    MappedRegion region_;
};

// Ends this process at once: no sanitizer looks at what it leaves, which a worker that dies is to leave.
[[noreturn]] inline void end_worker(int status) {
    for (;;) ::syscall(SYS_exit_group, status);
}

// Starts a process that shares our descriptors, does work() and ends. Only while there is no other thread.
template <typename Work>
pid_t start_worker(Work work) {
    clone_args arguments{};
    arguments.flags = CLONE_FILES;
    arguments.exit_signal = SIGCHLD;
    const auto child = static_cast<pid_t>(sys::check(::syscall(SYS_clone3, &arguments, sizeof arguments), "clone3"));
    if (child != 0) return child;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    try {
        work();
    } catch (const std::exception& failure) {
        const std::string text = std::string("worker: ") + failure.what() + '\n';
        [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
        end_worker(1);
    }
    end_worker(0);
}

// As waitpid(2) tells it.
inline int status_of(pid_t worker) {
    int status = 0;
    sys::check(::waitpid(worker, &status, 0), "waitpid");
    return status;
}

// Does work() in such a process; returns how it ended. What work() makes with left() is there when it dies.
template <typename Work>
int run_worker(Work work) {
    return status_of(start_worker(std::move(work)));
}

template <typename T, typename... Parts>
T& left(Parts&&... parts) {
    return *new T(std::forward<Parts>(parts)...);  // never deleted: its process dies first
}

inline bool was_killed(int status) {
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

// What a worker works with, as far as it is in lib.
struct Worker {
    static constexpr off_t max_size = off_t{1} << 20;

    explicit Worker(SharedState& shared) : state(shared) {}

    SharedState& state;
    std::function<void(const NodePtr&)> changed = [](const NodePtr& /*node*/) {};
    Counters& counters = state.counters();
    NodeTable nodes{state, max_size};
    ChangeWatcher watcher{[this](const NodePtr& node) { changed(node); }, counters, inotify(state.lifeline())};
    OpenFiles files{state};
    Deeds deeds{state};
    Unanswered unanswered{state, nodes, files, deeds};

    void add_root(const std::string& directory) {
        nodes.add_root(sys::open_at(AT_FDCWD, directory.c_str(), O_PATH | O_DIRECTORY));
    }

    // As FileSystem::take_over.
    void take_over() {
        std::vector<NodePtr> all;
        nodes.take_over(all);
        files.take_over(all, watcher, {});
        watcher.drop_other_watches();
        unanswered.take_over();
    }

    Lookup look_up(const std::string& path, RequestNumber request = 0) {
        UniqueFd found = sys::open_at(AT_FDCWD, path.c_str(), O_PATH | O_NOFOLLOW);
        const auto attributes = sys::stat_fd(found.get(), STATX_BASIC_STATS | STATX_MNT_ID);
        return nodes.look_up(found, attributes, request);
    }
    // Looks up as the kernel does: keeps the lookup.
    NodePtr known(const std::string& path) {
        Lookup lookup = look_up(path);
        NodePtr node = lookup.node();
        lookup.keep();
        return node;
    }
    OpenFilePtr open(const NodePtr& node, int flags, RequestNumber request = 0) {
        return files.add(node, sys::reopen(node->descriptor(), flags), flags, watcher.watch(node), request);
    }

    // Whether the kernel may use that id.
    bool knows(NodeId id) {
        try {
            nodes.get(id);
            return true;
        } catch (const std::system_error&) {
            return false;
        }
    }
    bool has_handle(SlotId id) {
        try {
            files.get(id);
            return true;
        } catch (const std::system_error&) {
            return false;
        }
    }

    // The instance that all workers share, by a descriptor of this one.
    static UniqueFd inotify(Lifeline& line) {
        if (line.inotify < 0) line.inotify = ChangeWatcher::make_inotify().release();
        return sys::duplicate(line.inotify);
    }
};

// How many slots of a table are in use.
template <typename Slot>
std::size_t in_use(SlotTable<Slot>& table) {
    return static_cast<std::size_t>(
        std::count_if(table.taken().begin(), table.taken().end(), [](const Slot& slot) { return slot.id != 0; }));
}

// A source directory, and workers that work with it one after the other.
struct House {
    NoStrays no_strays;
    TemporaryDirectory directory;
    SharedState state;

    // A worker does work(worker), and dies.
    template <typename Work>
    void live_and_die(Work work) {
        const int status = run_worker([&] {
            state.look_at_slots();
            auto& worker = left<Worker>(state);
            if (in_use(state.nodes()) == 0) {
                worker.add_root(directory.path());
            } else {
                worker.take_over();
            }
            work(worker);
        });
        REQUIRE(status == 0);
        state.look_at_slots();
    }

    [[nodiscard]] std::string file(const std::string& name) const { return directory.file(name); }
};

// The next worker, in this process.
struct Successor : Worker {
    explicit Successor(House& house) : Worker(house.state) { take_over(); }
};

}  // namespace nosigbus::test
