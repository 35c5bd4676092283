#include "fs/shadows.h"

#include <fcntl.h>

#include <cerrno>
#include <memory>
#include <system_error>
#include <utility>

#include "fs/backing_ids.h"
#include "lib/descriptor_table.h"
#include "lib/log.h"

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
    for (const int each : descriptors_) sum += memory_of_shadow(each);
    return sum;
}

void Shadows::make(Node& node) {
    const std::lock_guard lock(mutex_);
    View& view = node.view();
    if (view.engine() != Engine::shadow || view.shadow()) return;
    try {
        UniqueFd memory = to_stay(make_shadow(node.view_size()));
        const BackingId backing = add_backing(line_.device, memory.get());
        node.note_shadow(memory.get(), backing);
        add(node, std::move(memory), backing);
    } catch (const std::system_error& failure) {
        const int error = failure.code().value();
        is_refused_ = error == EPERM || error == ENOTTY || error == EOPNOTSUPP;
        log::warning("no shadows{}: {}", is_refused_ ? "" : " for now", failure.what());
        view.do_without_shadow();
    }
}

void Shadows::take_over(Node& node) {
    if (node.shadow() < 0) return;
    const std::lock_guard lock(mutex_);
    if (node.view().engine() == Engine::shadow) return add(node, UniqueFd(node.shadow()), node.backing());
    const UniqueFd closing(node.shadow());  // nobody has it open any more
    node.note_shadow(-1, 0);
    remove_backing(line_.device, node.backing());
}

// With the lock held.
void Shadows::add(Node& node, UniqueFd memory, std::int32_t backing) {
    const int descriptor = memory.get();
    auto shadow = std::make_shared<Shadow>(std::move(memory), backing,
                                           [this, &node, descriptor, backing] { forget(node, descriptor, backing); });
    descriptors_.insert(descriptor);
    node.view().set_shadow(std::move(shadow));
}

void Shadows::forget(Node& node, int descriptor, std::int32_t backing) noexcept {
    const std::lock_guard lock(mutex_);
    descriptors_.erase(descriptor);
    // It may have another already.
    if (node.shadow() == descriptor) node.note_shadow(-1, 0);
    remove_backing(line_.device, backing);
}

}  // namespace nosigbus
