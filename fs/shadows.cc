#include "fs/shadows.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "fs/backing_ids.h"
#include "lib/descriptor_table.h"
#include "lib/fault_point.h"
#include "lib/log.h"
#include "lib/pulse.h"
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

void do_without(Node& node, const char* why) {
    node.forget_shadow();
    node.view().do_without_shadow(why);
}

bool is_of_same_file(const Node& one, const Node& other) {
    return one.key() == other.key() || one.key() == twin_of(other.key());
}

}  // namespace

Shadows::Kept::Kept(NodePtr kept, ChangeWatcher::Watch watched, std::shared_ptr<Shadow> of)
    : node(std::move(kept)),
      shadow(std::move(of)),
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
    if (memory() + memory_of(file) > static_cast<std::uint64_t>(options_.shadow_memory))
        return cache("shadow_memory_is_used_up");
    if (are_running_short(file)) return cache("descriptors_run_short");
    if (!tells_its_size(file, real_size)) return cache("size_not_known");
    if (holes_may_fault()) return cache("no_overcommit");
    return {Engine::shadow, "opened_for_reading"};
}

void Shadows::make(const NodePtr& node) {
    View& view = node->view();
    if (view.engine().engine != Engine::shadow || view.shadow()) return;
    const std::lock_guard making(making_);
    if (view.engine().engine != Engine::shadow || view.shadow()) return;
    // One that writes would have to be told of each.
    if (!of_file(*node).empty()) return do_without(*node, "another_view_has_a_shadow");
    // Without, it could not be kept like the file.
    if (!view.readable()) return do_without(*node, "no_memory_or_descriptor");
    try {
        UniqueFd memory = to_stay(make_shadow(node->view_size()));
        fault_point("shadow.made");
        const BackingId backing = add_backing(line_.device, memory.get());
        fault_point("shadow.backed");
        add(node, std::move(memory), 0, backing);
    } catch (const std::system_error& failure) {
        const int error = failure.code().value();
        const bool is_refused = error == EPERM || error == ENOTTY || error == EOPNOTSUPP || error == ENOSYS;
        do_without(*node, is_refused ? "refused_by_the_kernel" : "no_memory_or_descriptor");
        if (is_refused) is_refused_ = true;
        // An ordinary user's mount has none, which is no news where nobody has asked for them.
        const bool is_news =
            is_refused ? options_.engine == Options::Engine::shadow : !told_of_shortage_.exchange(true);
        if (is_news) log::warning("no shadows{}: {}", is_refused ? "" : " for now", failure.what());
    }
}

void Shadows::take_over(const NodePtr& node) {
    const int memory = node->shadow();
    if (memory >= 0) add(node, UniqueFd(memory), sys::file_size(memory), node->backing());
}

void Shadows::add(const NodePtr& node, UniqueFd memory, off_t shown_size, std::int32_t backing) {
    const int descriptor = memory.get();
    auto shadow =
        std::make_shared<Shadow>(std::move(memory), shown_size, backing,
                                 [this, &of = *node, descriptor, backing] { forget(of, descriptor, backing); });
    {
        const std::lock_guard noting(noting_);
        node->note_shadow(descriptor, backing);
    }
    fault_point("shadow.noted");
    auto kept = std::make_unique<Kept>(node, watcher_.watch(node), shadow);
    node->view().set_shadow(std::move(shadow));
    memory_ += memory_of(node->descriptor());
    const std::lock_guard lock(mutex_);
    kept_.emplace(descriptor, std::move(kept));
    count_ = kept_.size();
    woken_.notify_one();
}

// Of a worker that dies in the midst the kernel keeps the memory, by its number: so it is made empty first.
void Shadows::forget(Node& node, int descriptor, std::int32_t backing) noexcept {
    ::fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, node.view_size());
    fault_point("shadow.emptied");
    {
        // It may have another already.
        const std::lock_guard noting(noting_);
        if (node.shadow() == descriptor) node.forget_shadow();
    }
    fault_point("shadow.forgotten");
    remove_backing(line_.device, backing);
}

std::vector<Shadows::Seen> Shadows::all() const {
    std::vector<Seen> found;
    if (count_ == 0) return found;
    const std::lock_guard lock(mutex_);
    for (const auto& [descriptor, kept] : kept_) found.push_back({kept->node, kept->shadow});
    return found;
}

std::vector<Shadows::Seen> Shadows::all_of_file(const Node& node) const {
    std::vector<Seen> found = all();
    std::erase_if(found, [&](const Seen& each) { return !is_of_same_file(*each.node, node); });
    return found;
}

std::vector<NodePtr> Shadows::of_file(const Node& node) const {
    std::vector<NodePtr> nodes;
    for (const Seen& each : all_of_file(node)) nodes.push_back(each.node);
    return nodes;
}

bool Shadows::are_in_use() const {
    return std::ranges::any_of(all(), [](const Seen& each) { return each.shadow->is_in_use(); });
}

void Shadows::let_go_if_idle(Node& node) {
    if (node.view().shadow() == nullptr) return;
    for (const Seen& each : all()) {
        if (each.node.get() == &node) let_go(node, *each.shadow);
    }
}

void Shadows::cut(const Node& node, off_t real_size) noexcept {
    try {
        for (const Seen& each : all_of_file(node)) each.shadow->cut(real_size);
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
    std::uint64_t memory = 0;
    for (const auto& [node, shadow] : all()) {
        if (let_go(*node, *shadow)) continue;
        const std::uint64_t of_file = memory_of(node->descriptor());
        const std::uint64_t of_shadow = shadow->memory();
        memory += std::max(of_file, of_shadow);
        if (of_shadow > of_file + free_tail_from) shadow->free_tail();
        if (shadow->has_failed()) refresh_(node);
    }
    memory_ = memory;
}

// Lets it go if nobody has it any more. Returns whether.
bool Shadows::let_go(Node& node, const Shadow& shadow) {
    const int descriptor = shadow.descriptor();
    const View& view = node.view();
    const std::uint64_t times_opened = view.times_opened();
    if (!view.is_open_once() || shadow.is_in_use()) return false;
    auto idle = exchange_kept(descriptor, nullptr);
    if (!idle || idle->open.end_if_alone(times_opened)) return true;
    exchange_kept(descriptor, std::move(idle));
    return false;
}

// Puts what is given there, or takes it away, and returns what was.
std::unique_ptr<Shadows::Kept> Shadows::exchange_kept(int descriptor, std::unique_ptr<Kept> kept) {
    const std::lock_guard lock(mutex_);
    auto node = kept_.extract(descriptor);
    auto before = node ? std::move(node.mapped()) : nullptr;
    if (kept) kept_.emplace(descriptor, std::move(kept));
    count_ = kept_.size();
    return before;
}

}  // namespace nosigbus
