#include "fs/shadows.h"

#include <fcntl.h>

#include <cerrno>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "fs/backing_ids.h"
#include "lib/descriptor_table.h"
#include "lib/log.h"
#include "lib/pulse.h"

namespace nosigbus {

Engine Shadows::wanted(const Node& node, int flags, off_t real_size) const {
    const bool is_to_read = (flags & O_ACCMODE) == O_RDONLY;
    if (options_.engine == Options::Engine::cache || !channel_.passes_through() || !is_to_read ||
        node.access().is_slow || real_size > options_.shadow_max)
        return Engine::cache;
    {
        const std::lock_guard lock(mutex_);
        if (is_refused_) return Engine::cache;
    }
    const std::uint64_t all = memory() + static_cast<std::uint64_t>(real_size);
    return all <= static_cast<std::uint64_t>(options_.shadow_memory) ? Engine::shadow : Engine::cache;
}

std::uint64_t Shadows::memory() const {
    const std::lock_guard lock(mutex_);
    std::uint64_t sum = 0;
    for (const auto& [descriptor, kept] : kept_) sum += memory_of_shadow(descriptor);
    return sum;
}

void Shadows::make(const NodePtr& node) {
    const std::lock_guard making(making_);
    View& view = node->view();
    if (view.engine() != Engine::shadow || view.shadow()) return;
    try {
        UniqueFd memory = to_stay(make_shadow(node->view_size()));
        const BackingId backing = add_backing(line_.device, memory.get());
        node->note_shadow(memory.get(), backing);
        add(node, std::move(memory), backing);
    } catch (const std::system_error& failure) {
        const int error = failure.code().value();
        const bool is_refused = error == EPERM || error == ENOTTY || error == EOPNOTSUPP;
        log::warning("no shadows{}: {}", is_refused ? "" : " for now", failure.what());
        view.do_without_shadow();
        const std::lock_guard lock(mutex_);
        is_refused_ = is_refused;
    }
}

void Shadows::take_over(const NodePtr& node) {
    if (node->shadow() >= 0) add(node, UniqueFd(node->shadow()), node->backing());
}

void Shadows::add(const NodePtr& node, UniqueFd memory, std::int32_t backing) {
    const int descriptor = memory.get();
    auto shadow = std::make_shared<Shadow>(
        std::move(memory), backing, [this, &of = *node, descriptor, backing] { forget(of, descriptor, backing); });
    auto kept = std::make_unique<Kept>(node, watcher_.watch(node));
    node->view().set_shadow(std::move(shadow));
    const std::lock_guard lock(mutex_);
    kept_.emplace(descriptor, std::move(kept));
    woken_.notify_one();
}

void Shadows::forget(Node& node, int descriptor, std::int32_t backing) noexcept {
    // It may have another already.
    const std::lock_guard making(making_);
    if (node.shadow() == descriptor) node.note_shadow(-1, 0);
    remove_backing(line_.device, backing);
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
            look();
        }
        lock.lock();
    }
}

// Lets those go that nobody has any more.
void Shadows::look() {
    std::vector<std::pair<int, const View*>> all;
    {
        const std::lock_guard lock(mutex_);
        for (const auto& [descriptor, kept] : kept_) all.emplace_back(descriptor, &kept->node->view());
    }
    for (const auto& [descriptor, view] : all) {
        const std::uint64_t times_opened = view->times_opened();
        if (!view->is_open_once() || is_in_use(descriptor)) continue;
        auto idle = exchange_kept(descriptor, nullptr);
        if (!idle->open.end_if_alone(times_opened)) exchange_kept(descriptor, std::move(idle));
    }
}

// Puts what is given there, or takes it away, and returns what was.
std::unique_ptr<Shadows::Kept> Shadows::exchange_kept(int descriptor, std::unique_ptr<Kept> kept) {
    const std::lock_guard lock(mutex_);
    auto node = kept_.extract(descriptor);
    auto before = node ? std::move(node.mapped()) : nullptr;
    if (kept) kept_.emplace(descriptor, std::move(kept));
    return before;
}

}  // namespace nosigbus
