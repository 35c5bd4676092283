// What there is of a node while clients have it open: its pages in the kernel, and who may be changing them.
#pragma once

#include <sys/stat.h>

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "lib/counters.h"
#include "lib/engine.h"
#include "lib/given_pages.h"
#include "lib/node_access.h"
#include "lib/shadow.h"
#include "lib/unique_fd.h"

namespace nosigbus {

// Thread-safe.
class View {
  public:
    // `path` is the node's descriptor, which outlives the view.
    View(int path, GivenPagesBudget& budget, NodeAccess access = {}) : path_(path), access_(access), pages_(budget) {}
    View(const View&) = delete;
    View& operator=(const View&) = delete;
    ~View() = default;

    [[nodiscard]] GivenPages& pages() { return pages_; }
    [[nodiscard]] ViewCounters& counters() { return counters_; }

    // A client has it open, or has it no more. With the first open nobody can see pages of before, and the kernel drops
    // them when it takes the reply (fuse_finish_open), so counting starts anew. With the last close nobody can see any.
    //
    // The first open settles whose pages all see until the last close: `wanted` says which. A shadow is not for those
    // who write: opened() throws std::system_error ESTALE then, and whoever opens is to look for another node.
    void opened(bool writable, EngineChoice wanted = not_asked_for);
    void closed(bool writable) noexcept;

    // What goes with the last close, which may take its time: with no lock held.
    struct Closing {
        std::shared_ptr<const UniqueFd> readable;
        std::shared_ptr<Shadow> shadow;
    };

    // As closed(false) where nobody else has it open and may_close(), which is called while nobody can open it and must
    // not ask the view for anything. Returns nothing where it is not closed.
    template <typename MayClose>
    std::optional<Closing> closed_if_alone(MayClose may_close) noexcept {
        const std::lock_guard lock(mutex_);
        if (opens_ != 1 || !may_close()) return std::nullopt;
        opens_ = 0;
        return close_locked();
    }

    // Somebody is about to open it for writing: who opens it first within the next second, and before him, gets no
    // shadow. Or he is not.
    void expect_writer(bool comes = true);

    [[nodiscard]] EngineChoice engine() const;
    // The shadow; null where there is none, or none yet.
    [[nodiscard]] std::shared_ptr<Shadow> shadow() const;
    // For the engine that was settled. Until then nobody may be told that the view is open.
    void set_shadow(std::shared_ptr<Shadow> shadow);
    // It cannot be had.
    void do_without_shadow(const char* why);

    // To push is to store bytes that were read a moment ago. Whoever makes a change that must show when its call
    // returns gives the reply through after_push: at once, or when the push has ended that may still store older bytes.
    // No lock is held during a push. Returns false where somebody has the view open for writing: its pages may hold
    // stores of theirs, and be locked until these have been written back.
    [[nodiscard]] bool begin_push();
    void end_push();
    // On this thread, or on that of the refresher. `reply` does not throw.
    void after_push(std::function<void()> reply);

    [[nodiscard]] bool has_writers() const;
    [[nodiscard]] bool is_open() const;

    // The backing file, open for reading; empty where it cannot be opened, or may make us wait. Kept until the last
    // close.
    std::shared_ptr<const UniqueFd> readable();

    // For changes that nobody tells us of: a refresh begins, and saw the file like this.
    void note_seen(const struct stat& attributes);
    // Whether the file looks different now, or was changed so shortly before that a further change could look the same:
    // a write(2) dates the file before it copies its bytes.
    [[nodiscard]] bool may_have_changed() const;

    // The refresher's own notes.
    struct Pace {
        std::chrono::steady_clock::time_point last_refresh;
        unsigned pushes = 0;  // refreshes since one dropped what it could have pushed
        off_t shown_size = 0;
    };
    Pace pace;

  private:
    struct Seen {
        timespec modified;
        timespec changed;
        off_t size;
        blkcnt_t blocks;
        bool is_recent;
    };

    Closing close_locked() noexcept;
    [[nodiscard]] bool look(struct stat& attributes) const;
    [[nodiscard]] UniqueFd open_for_reading() const;

    const int path_;
    const NodeAccess access_;
    GivenPages pages_;
    ViewCounters counters_;
    mutable std::mutex mutex_;
    unsigned opens_ = 0;
    unsigned writers_ = 0;
    EngineChoice engine_ = not_open;
    std::chrono::steady_clock::time_point no_shadow_before_;
    std::shared_ptr<Shadow> shadow_;
    bool pushing_ = false;
    std::vector<std::function<void()>> after_push_;
    std::shared_ptr<const UniqueFd> readable_;
    std::optional<Seen> seen_;
};

// Counts as one open while it lives.
class OpenView {
  public:
    OpenView(View& view, bool writable, EngineChoice wanted = not_asked_for) : view_(&view), writable_(writable) {
        view.opened(writable, wanted);
    }
    OpenView(const OpenView&) = delete;
    OpenView& operator=(const OpenView&) = delete;
    ~OpenView() {
        if (view_ != nullptr) view_->closed(writable_);
    }

    // For one who reads: ends it, where nobody else has the view open, see View.
    template <typename MayClose>
    std::optional<View::Closing> end_if_alone(MayClose may_close) noexcept {
        auto closing = view_->closed_if_alone(may_close);
        if (closing) view_ = nullptr;
        return closing;
    }

  private:
    View* view_;
    bool writable_;
};

}  // namespace nosigbus
