// A source directory and its nodes, as a file system keeps them.
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "lib/change_watcher.h"
#include "lib/node_table.h"
#include "lib/open_files.h"
#include "lib/page_digest.h"
#include "tests/unit/temporary.h"

namespace nosigbus::test {

struct Source {
    explicit Source(off_t max_size = off_t{1} << 20)
        : nodes(state, sys::open_at(AT_FDCWD, directory.path().c_str(), O_PATH | O_DIRECTORY), max_size) {}

    TemporaryDirectory directory;
    SharedState state;
    NodeTable nodes;
    OpenFiles open_files{state};

    // The node of a file that is there, which stays known.
    NodePtr look_up(const std::string& name) {
        UniqueFd path = sys::open_at(AT_FDCWD, directory.file(name).c_str(), O_PATH);
        const auto attributes = sys::stat_fd(path.get(), STATX_BASIC_STATS | STATX_MNT_ID);
        Lookup lookup = nodes.look_up(path, attributes);
        NodePtr node = lookup.node();
        lookup.keep();
        return node;
    }

    OpenFilePtr open(const NodePtr& node, int flags, ChangeWatcher::Watch watch = {}) {
        return open_files.add(node, sys::reopen(node->descriptor(), flags), flags, std::move(watch));
    }
    void close(const OpenFilePtr& file) { open_files.remove(file->id()); }
};

inline std::string pages_of(char c, std::size_t count = 1) {
    return std::string(count * page_size(), c);
}

inline off_t offset_of(std::uint64_t page) {
    return static_cast<off_t>(page * page_size());
}

inline void write_bytes(int fd, std::string_view bytes, off_t offset) {
    sys::write_at(fd, std::as_bytes(std::span(bytes)), offset);
}

// Asks again and again until the answer is yes; returns whether it came in time.
template <typename Question>
bool comes_true(Question question, std::chrono::seconds deadline = std::chrono::seconds(20)) {
    const auto end = std::chrono::steady_clock::now() + deadline;
    while (!question()) {
        if (std::chrono::steady_clock::now() > end) return false;
        std::this_thread::yield();
    }
    return true;
}

}  // namespace nosigbus::test
