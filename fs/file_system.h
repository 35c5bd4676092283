// One mounted file system: what the handlers of its requests work with. Made before any thread starts.
#pragma once

#include <fuse_lowlevel.h>

#include <atomic>
#include <memory>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "fs/channel.h"
#include "fs/forgetter.h"
#include "fs/page_cache.h"
#include "fs/pruner.h"
#include "fs/shadows.h"
#include "fs/slow_work.h"
#include "fs/truncations.h"
#include "lib/change_watcher.h"
#include "lib/counters.h"
#include "lib/deeds.h"
#include "lib/errands.h"
#include "lib/fault_point.h"
#include "lib/former_workers.h"
#include "lib/last_call.h"
#include "lib/node_table.h"
#include "lib/open_files.h"
#include "lib/options.h"
#include "lib/page_digest.h"
#include "lib/read_errors.h"
#include "lib/refresher.h"
#include "lib/retries.h"
#include "lib/shared_state.h"
#include "lib/spare_memory.h"
#include "lib/sweeper.h"
#include "lib/turned_away.h"
#include "lib/unanswered.h"

namespace nosigbus {

class FileSystem {
  public:
    // The first to work with `state`, which outlives it. `source` is an O_PATH descriptor of the source directory.
    FileSystem(SharedState& state, UniqueFd source, const Options& options);

    // The successor of another that worked with `state`, and holds nothing of it before take_over.
    FileSystem(SharedState& state, const Options& options);
    FileSystem(const FileSystem&) = delete;
    FileSystem& operator=(const FileSystem&) = delete;
    ~FileSystem() {
        stop_following();
        nodes_.close_slowly({});
        open_files_.close_slowly({});
    }

    // The one a request belongs to.
    static FileSystem& of(fuse_req_t request) { return *static_cast<FileSystem*>(fuse_req_userdata(request)); }

    [[nodiscard]] const Options& options() const { return options_; }
    NodeTable& nodes() { return nodes_; }
    OpenFiles& open_files() { return open_files_; }
    Channel& channel() { return channel_; }
    PageCache& page_cache() { return page_cache_; }
    Pruner& pruner() { return pruner_; }
    Shadows& shadows() { return shadows_; }
    TurnedAway& turned_away() { return turned_away_; }
    ChangeWatcher& watcher() { return watcher_; }
    // The one that tells the kernel of that node's pages: views that may make it wait have another than all others.
    Refresher& refresher_of(const Node& node) { return node.access().is_slow ? slow_refresher_ : refresher_; }
    Forgetter& forgetter() { return forgetter_; }
    SlowWork& slow_work() { return slow_work_; }
    Counters& counters() { return counters_; }
    SharedState& state() { return state_; }
    Lifeline& lifeline() { return state_.lifeline(); }
    Deeds& deeds() { return deeds_; }
    Unanswered& unanswered() { return unanswered_; }
    FormerWorkers& former_workers() { return former_workers_; }
    [[nodiscard]] const PageDigester& digester() const { return digester_; }
    Truncations& truncations() { return truncations_; }
    ReadErrors& read_errors() { return read_errors_; }
    Retries& retries() { return retries_; }

    // Takes over what the predecessor left: nodes, open files, watches, and what it had begun. Where it throws
    // (std::bad_alloc, std::system_error) this object must not be destroyed, or it would close what its own successor
    // needs.
    void take_over();

    // Notifications go to `session`, which stays the caller's, who ends it after stop_following.
    void use(fuse_session* session) { page_cache_.use(session); }

    // Starts the threads that follow changes.
    void follow_changes();

    // Gives the replies that still wait and ends the threads. Returns false where one of them is held up in a file
    // system that does not answer: then nothing may be destroyed any more.
    bool stop_following();

    // Of `thread`, see there. Throws std::system_error.
    PeerDescriptor descriptor_of(pid_t thread, int number) {
        return errands_ ? errands_->descriptor_of(thread, number) : nosigbus::descriptor_of(thread, number);
    }
    // From now on somebody else does that for us, who may.
    void have_errands_run() { errands_.emplace(state_.errands()); }

    // The device number of our own mount, known once it stands: a lookup that would enter it is refused.
    void set_own_device(dev_t device) { own_device_ = device; }
    [[nodiscard]] dev_t own_device() const { return own_device_; }
    // That of the source directory itself.
    [[nodiscard]] dev_t source_device() const { return source_device_; }

    // Whether the kernel has answered INIT with all we need.
    enum class Init { waiting, done, refused };
    std::atomic<Init>& init() { return init_; }

    // The file is that large now. Its view follows, if it has to; nothing waits for that.
    void note_growth(const NodePtr& node, off_t real_size);

    // The size for a reply that the kernel does not order, see unversioned_size. It reaches every mapping by itself,
    // and it must not wait for the refresher: the kernel holds writeback during a SETATTR of the size, for which the
    // refresher may wait.
    off_t size_for_unversioned_reply(const NodePtr& node, const struct statx& attributes);

    // Calls `reply` once the kernel knows a view of at least `real_size` bytes: at once nearly always, and from the
    // refresher when the file has outgrown its view. A size is told to nobody before every mapping reaches it.
    template <typename Reply>
    void when_view_holds(const NodePtr& node, off_t real_size, Reply reply) {
        if (node->holds(real_size)) return reply();
        grow(node, real_size, std::move(reply));
    }

    // As above for somebody who is about to map the view. Where it has grown since the kernel was given the node,
    // replies of different sizes may have overtaken each other, so the kernel is told again.
    template <typename Reply>
    void when_view_is_known(const NodePtr& node, off_t real_size, Reply reply) {
        if (real_size <= node->view_size() && !node->outgrown()) return reply();
        grow(node, real_size, std::move(reply));
    }

    // Calls `reply`, with which the kernel drops pages or takes a writer to have the file open: when a push that is
    // under way and may still store older bytes has ended, see View.
    template <typename Reply>
    static void after_push(const Node& node, Reply reply) {
        View* const view = node.view_if_opened();
        if (view == nullptr) return reply();
        auto later = std::make_shared<Reply>(std::move(reply));
        view->after_push([later] { (*later)(); });
    }

    // The other nodes of the file, of whose pages somebody may see something, see NodeTable::look_up.
    std::vector<NodePtr> other_views(const Node& node);

    // Calls `reply` when the other views of the file show what has been done through this one to `length` bytes at
    // `offset`. The kernel may hold the inode's lock meanwhile, but no page. Where there is no memory for that they
    // show it a moment later, by the sweeper: it has been done, and to say otherwise would be wrong.
    template <typename Reply>
    void when_other_views_show(const NodePtr& node, off_t offset, off_t length, Reply reply) {
        std::shared_ptr<const void> last;
        try {
            with_spare_memory([&] {
                const auto views = other_views(*node);
                if (!last && !views.empty()) last = when_last_goes(std::move(reply));
                fault_point("views.others");
                for (const NodePtr& each : views) refresher_of(*each).refresh(each, offset, length, [last] {});
            });
        } catch (const std::bad_alloc&) {
            // As promised.
        }
        if (!last) reply();
    }

    // The same, soon, and nobody waits for it.
    void refresh_other_views(const Node& node) noexcept;

    // The file has another size now. All its shadows show it when this returns; the kernel's own pages of another view,
    // which may wait for a request like this one, soon.
    void show_truncation(const Node& node) noexcept;

  private:
    // Nobody knows what the kernel was given: all views that are open are read anew.
    void doubt_all_views();
    void take_over_truncations();

    template <typename Reply>
    void grow(const NodePtr& node, off_t real_size, Reply reply) {
        // std::function wants to copy what a reply owns only once.
        auto later = with_spare_memory([&] { return std::make_shared<Reply>(std::move(reply)); });
        with_spare_memory([&] { refresher_of(*node).grow(node, real_size, [later] { (*later)(); }); });
    }

    // `source` may be empty.
    FileSystem(SharedState& state, const Options& options, UniqueFd* source);

    SharedState& state_;
    const Options options_;
    Counters& counters_;
    FormerWorkers former_workers_;
    Channel channel_;
    NodeTable nodes_;
    PageCache page_cache_;
    Pruner pruner_{nodes_, page_cache_};
    Forgetter forgetter_{nodes_, page_cache_};
    PageDigester digester_;
    ReadErrors read_errors_;
    Refresher refresher_;
    Refresher slow_refresher_;
    ChangeWatcher watcher_;
    Shadows shadows_;
    TurnedAway turned_away_{state_.lifeline()};
    Sweeper sweeper_;
    OpenFiles open_files_;
    Truncations truncations_;
    Retries retries_;
    SlowWork slow_work_;
    std::optional<Errands> errands_;
    Deeds deeds_;
    Unanswered unanswered_;
    std::vector<NodePtr> taken_over_;  // while it is being done
    std::atomic<dev_t> own_device_{0};
    dev_t source_device_ = 0;
    std::atomic<Init> init_{Init::waiting};
};

}  // namespace nosigbus
