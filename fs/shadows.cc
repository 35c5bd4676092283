#include "fs/shadows.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <iterator>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "fs/backing_ids.h"
#include "lib/descriptor_table.h"
#include "lib/fault_point.h"
#include "lib/log.h"
#include "lib/pulse.h"
#include "lib/spare_memory.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

// How much loads may take behind a file's end before they lose it.
constexpr std::uint64_t free_tail_from = std::uint64_t{1} << 20;

// proc(5) has files that say they are empty, and are not.
bool tells_its_size(int file, off_t real_size) {
    struct statfs found {};
    return real_size > 0 || (::fstatfs(file, &found) == 0 && found.f_type == TMPFS_MAGIC);
}

// What the data of a file takes, in bytes; where that cannot be had, nothing.
std::uint64_t memory_of(int file) noexcept {
    struct stat attributes {};
    constexpr std::uint64_t block = 512;  // stat(2): st_blocks
    return sys::look(file, attributes) ? static_cast<std::uint64_t>(attributes.st_blocks) * block : 0;
}

// Gives all its memory back.
void empty(int shadow) noexcept {
    struct stat attributes {};
    if (::fstat(shadow, &attributes) == 0)
        ::fallocate(shadow, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, attributes.st_size);
}

}  // namespace

Shadows::File Shadows::file_of(const Node& node) {
    return {node.key().device, node.key().inode};
}

Shadows::Kept::Kept(NodePtr kept, ChangeWatcher::Watch watched)
    : node(std::move(kept)),
      watch(std::move(watched)),
      open(node->view(), false, {Engine::shadow, "opened_before_a_restart"}) {}

UniqueFd Shadows::open_overcommit_policy() noexcept {
    return UniqueFd(::open("/proc/sys/vm/overcommit_memory", O_RDONLY | O_CLOEXEC));
}

// With vm.overcommit_memory=2 there may be no page for a load of a hole (shmem_inode_acct_blocks), which is SIGBUS.
bool Shadows::holes_may_fault() const noexcept {
    char policy = '0';
    return ::pread(overcommit_.get(), &policy, 1, 0) == 1 && policy == '2';
}

bool Shadows::exceeds_budget(std::uint64_t more) const noexcept {
    return memory() + more > static_cast<std::uint64_t>(options_.shadow_memory);
}

EngineChoice Shadows::wanted(const Node& node, int flags, int file, off_t real_size) const {
    const auto cache = [](const char* why) { return EngineChoice{Engine::cache, why}; };
    if ((flags & O_ACCMODE) != O_RDONLY) return cache("opened_for_writing");
    if (options_.engine == Options::Engine::cache) return cache("as_mounted");
    if (options_.on_error == Options::OnError::fail) return cache("loads_may_fail");
    if (!channel_.passes_through()) return cache("no_passthrough");
    if (is_refused_) return cache("refused_by_the_kernel");
    if (node.access().is_slow) return cache("may_wait_for_its_server");
    if (options_.engine == Options::Engine::automatic && real_size > options_.shadow_max)
        return cache("larger_than_shadow_max");
    if (exceeds_budget(memory_of(file))) return cache("shadow_memory_is_used_up");
    if (are_running_short(file)) return cache("descriptors_run_short");
    if (!tells_its_size(file, real_size)) return cache("size_not_known");
    if (holes_may_fault()) return cache("no_overcommit");
    // One that writes would have to be told of each.
    if (!of_file(node).empty()) return cache("another_view_has_a_shadow");
    return {Engine::shadow, "opened_for_reading"};
}

void Shadows::make(const NodePtr& node) {
    View& view = node->view();
    if (view.engine().engine != Engine::shadow || view.shadow()) return;
    // Both wait for the source's file system, and nobody waits for us meanwhile.
    const bool is_readable = view.readable() != nullptr;
    const std::uint64_t size = memory_of(node->descriptor());
    const auto making = lock_parked<std::unique_lock<std::mutex>>(making_);
    if (view.engine().engine != Engine::shadow || view.shadow()) return;
    // It could not be kept like the file.
    if (!is_readable) return view.do_without_shadow("no_memory_or_descriptor");
    // Others may have been faster.
    if (!of_file(*node).empty()) return view.do_without_shadow("another_view_has_a_shadow");
    if (exceeds_budget(size)) return view.do_without_shadow("shadow_memory_is_used_up");
    try {
        UniqueFd memory = to_stay(make_shadow(node->view_size()));
        fault_point("shadow.made");
        Backing backing(line_.device, memory.get());
        fault_point("shadow.backed");
        add(node, memory, 0, backing.id(), size);
        backing.release();
    } catch (const std::system_error& failure) {
        const int error = failure.code().value();
        const bool is_refused = error == EPERM || error == ENOTTY || error == EOPNOTSUPP || error == ENOSYS;
        view.do_without_shadow(is_refused ? "refused_by_the_kernel" : "no_memory_or_descriptor");
        if (is_refused) is_refused_ = true;
        // An ordinary user's mount has none, which is no news where nobody has asked for them.
        const bool is_news =
            is_refused ? options_.engine == Options::Engine::shadow : !told_of_shortage_.exchange(true);
        if (is_news) log::warning("no shadows{}: {}", is_refused ? "" : " for now", failure.what());
    } catch (const std::bad_alloc&) {
        view.do_without_shadow("no_memory_or_descriptor");
    }
}

void Shadows::take_over(const NodePtr& node) {
    const Node::ShadowNote shadow = node->shadow();
    const Node::ShadowNote leaving = node->leaving();
    UniqueFd memory;
    if (leaving.descriptor >= 0 && leaving.descriptor != shadow.descriptor) {
        memory.reset(leaving.descriptor);
        empty(memory.get());
        remove_backing(line_.device, leaving.backing);
    }
    node->forget_leaving();  // first: nobody is to find the number of what is closed
    memory.reset();
    if (shadow.descriptor < 0) return;
    memory.reset(shadow.descriptor);
    try {
        add(node, memory, sys::file_size(memory.get()), shadow.backing, memory_of(node->descriptor()));
    } catch (...) {
        static_cast<void>(memory.release());  // clients have it mapped, and our own successor needs it
        throw;
    }
}

void Shadows::add(const NodePtr& node, UniqueFd& memory, off_t shown_size, BackingId backing, std::uint64_t size) {
    const Node::ShadowNote note{memory.get(), backing};
    // First all that may fail: a shadow that goes takes its memory away from who has it mapped.
    Kepts added;
    const auto place = added.emplace(file_of(*node), std::make_unique<Kept>(node, watcher_.watch(node)));
    fault_point("shadow.adding");
    std::function<void()> forgets = [&of = *node, note, device = line_.device.load()] { forget(of, note, device); };
    auto shadow = std::make_shared<Shadow>(std::move(memory), shown_size, backing, std::move(forgets));
    place->second->shadow = shadow;
    node->note_shadow(note);
    fault_point("shadow.noted");
    memory_ += size;
    {
        const std::lock_guard lock(mutex_);
        kept_.merge(added);
        count_ = kept_.size();
    }
    woken_.notify_one();
    node->view().set_shadow(std::move(shadow));
}

// The memory is given back before anything else: what dies in the midst leaves little.
void Shadows::forget(Node& node, Node::ShadowNote shadow, int device) noexcept {
    empty(shadow.descriptor);
    fault_point("shadow.emptied");
    node.forget_shadow(shadow.descriptor);
    fault_point("shadow.forgotten");
    remove_backing(device, shadow.backing);
}

std::vector<Shadows::Seen> Shadows::all() const {
    std::vector<Seen> found;
    if (count_ == 0) return found;
    const std::lock_guard lock(mutex_);
    for (const auto& [file, kept] : kept_) found.push_back({kept->node, kept->shadow});
    return found;
}

std::vector<Shadows::Seen> Shadows::all_of_file(const Node& node) const {
    std::vector<Seen> of_inode;
    if (count_ == 0) return of_inode;
    {
        const std::lock_guard lock(mutex_);
        const auto [first, end] = kept_.equal_range(file_of(node));
        for (auto it = first; it != end; ++it) of_inode.push_back({it->second->node, it->second->shadow});
    }
    // Without those that nobody has any more and that are just going. Copied: a Seen that is assigned to would let go
    // of its node first.
    std::vector<Seen> found;
    std::ranges::copy_if(of_inode, std::back_inserter(found), [&](const Seen& each) {
        return are_of_one_file(each.node->key(), node.key()) && each.node->view().shadow() == each.shadow;
    });
    return found;
}

std::vector<NodePtr> Shadows::of_file(const Node& node) const {
    std::vector<NodePtr> nodes;
    for (const Seen& each : all_of_file(node)) nodes.push_back(each.node);
    return nodes;
}

bool Shadows::are_in_use() const {
    const auto seen = all();
    const std::lock_guard probing(probing_);
    return std::ranges::any_of(seen, [](const Seen& each) { return each.shadow->is_in_use(); });
}

void Shadows::let_go_if_idle(const NodePtr& node) {
    if (const auto shadow = node->view().shadow()) static_cast<void>(let_go({node, shadow}));
}

void Shadows::cut(const Node& node) noexcept {
    try {
        with_spare_memory([&] {
            for (const Seen& each : all_of_file(node)) each.shadow->cut(each.node->descriptor());
        });
    } catch (const std::exception& failure) {
        log::error("inode {}: its shadow shows a truncation late: {}", node.key().inode, failure.what());
    }
}

void Shadows::start() {
    thread_ = std::thread([this] { run(); });
}

void Shadows::stop() {
    if (thread_.joinable()) {
        {
            const std::lock_guard lock(mutex_);
            stopping_ = true;
        }
        woken_.notify_one();
        thread_.join();
    }
    const auto all = std::exchange(kept_, {});
}

void Shadows::run() {
    prepare_pulse();
    std::unique_lock lock(mutex_);
    for (;;) {
        woken_.wait(lock, [this] { return stopping_ || !kept_.empty(); });
        if (woken_.wait_for(lock, interval, [this] { return stopping_; })) return;
        lock.unlock();
        {
            const AtWork at_work("looking at shadows");
            try {
                look();
            } catch (const std::exception&) {
                // There is no memory: next time.
            }
        }
        lock.lock();
    }
}

void Shadows::look() {
    const auto allowed = static_cast<std::uint64_t>(options_.shadow_memory);
    const std::uint64_t before = memory_;
    const bool is_used_up = before > allowed;
    const auto now = std::chrono::steady_clock::now();
    const bool is_to_be_tried = now >= next_retry_;
    if (is_to_be_tried) next_retry_ = now + retry_interval;
    std::uint64_t memory = 0;
    for (const Seen& each : all()) {
        if (let_go(each)) continue;
        const auto& [node, shadow] = each;
        const std::uint64_t of_file = memory_of(node->descriptor());
        const std::uint64_t of_shadow = shadow->memory();
        memory += shadow->is_whole() ? of_shadow : std::max(of_file, of_shadow);
        if (of_shadow > of_file + free_tail_from) shadow->free_tail();
        // Of a file that is no larger than one that would get a shadow there is not much to be left out.
        shadow->may_take_more = !is_used_up || of_file <= static_cast<std::uint64_t>(options_.shadow_max);
        if (is_to_be_tried && shadow->may_take_more && shadow->has_failed()) refresh_(node);
    }
    memory_ += memory - before;  // others may have been added meanwhile
    if (count_ > 0 && holes_may_fault() && !told_of_overcommit_.exchange(true)) {
        log::warning(
            "vm.overcommit_memory is 2: a load from a view that is mapped by now may be SIGBUS when memory is short; "
            "further views have no shadow");
    }
}

// Lets it go if nobody has it any more. Returns whether.
bool Shadows::let_go(const Seen& seen) {
    std::optional<View::Closing> closing;
    std::unique_ptr<Kept> gone;
    const auto probing = lock_parked<std::unique_lock<std::mutex>>(probing_);  // one's lease would break another's
    Kept* kept = nullptr;
    {
        const std::lock_guard lock(mutex_);
        const auto place = find_locked(seen);
        if (place == kept_.end()) return true;
        kept = place->second.get();
    }
    if (seen.node->view().shadow() != seen.shadow) return true;
    // One at a time can be noted.
    if (seen.node->leaving().descriptor >= 0) return false;
    // While the view cannot be opened: the kernel's own open of the memory would meet the lease.
    const auto may_go = [&] {
        if (seen.shadow->is_in_use()) return false;
        seen.node->let_shadow_go();
        return true;
    };
    closing = kept->open.end_if_alone(may_go);
    if (!closing) return false;
    fault_point("shadow.left");
    const std::lock_guard lock(mutex_);
    const auto place = find_locked(seen);
    gone = std::move(place->second);
    kept_.erase(place);
    count_ = kept_.size();
    return true;
}

Shadows::Kepts::iterator Shadows::find_locked(const Seen& seen) {
    const auto [first, end] = kept_.equal_range(file_of(*seen.node));
    const auto found = std::find_if(first, end, [&](const auto& each) { return each.second->shadow == seen.shadow; });
    return found == end ? kept_.end() : found;
}

}  // namespace nosigbus
