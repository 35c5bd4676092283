#include "lib/refresher.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <utility>

#include "lib/backing_file.h"
#include "lib/fault_point.h"
#include "lib/log.h"
#include "lib/pulse.h"
#include "lib/syscalls.h"
#include "lib/view_size.h"

namespace nosigbus {
namespace {

using Clock = std::chrono::steady_clock;

// How much of a pass is looked at in one go; what shares the work among threads needs some thousand pages.
constexpr std::uint64_t slice_pages = 2048;
// What is read, compared and pushed in one go: a client that opens the view waits for it.
constexpr std::uint64_t window_pages = 64;
// By how many pages a file has to shrink for them to be dropped. To push zeros to so many costs as much, and holds
// memory for pages that nobody may load again.
constexpr std::uint64_t many_pages = 1024;
// A view that has been pushed to this often without a drop gets one. If somebody looks at it, that costs a fault for
// each page; if nobody does, the kernel has it no more and it costs nothing from then on.
constexpr unsigned pushes_at_most = 64;
// A view refreshed so shortly ago is restless.
constexpr auto restless_within = std::chrono::milliseconds(20);
constexpr auto turn_time = std::chrono::milliseconds(1);

std::uint64_t page_of(off_t offset) {
    return static_cast<std::uint64_t>(offset) / page_size();
}

std::uint64_t page_behind(off_t offset) {
    return (static_cast<std::uint64_t>(offset) + page_size() - 1) / page_size();
}

// How many of these pages are to be read at once, from the first on: none where that does not differ. A page that does
// not is read along if one that does is near, which saves a call.
std::uint64_t worth_a_look(std::span<const bool> differs) {
    constexpr std::uint64_t near = 3;
    std::uint64_t end = 0;
    for (std::uint64_t i = 0; i < differs.size() && i <= end + near; ++i) {
        if (differs[i]) end = i + 1;
        if (end == 0) break;
    }
    return end;
}

off_t offset_of(std::uint64_t page) {
    return static_cast<off_t>(page * page_size());
}

}  // namespace

Refresher::Refresher(ViewPages& pages, const PageDigester& digester, off_t max_size, Counters& counters,
                     ReadErrors& errors)
    : pages_(pages),
      digester_(digester),
      max_size_(max_size),
      counters_(counters),
      errors_(errors),
      states_(slice_pages),
      differs_(std::make_unique<bool[]>(slice_pages)),
      window_(window_pages * page_size()),
      restless_allowance_(50, std::chrono::milliseconds(50)) {}

void Refresher::start() {
    crew_.emplace(Crew::enough_helpers());
    compare_.emplace(digester_, *crew_);
    copier_.emplace(*crew_);
    thread_ = std::thread([this] { run(); });
}

void Refresher::stop() {
    if (!thread_.joinable()) return;
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    woken_.notify_one();
    thread_.join();
}

void Refresher::changed(const NodePtr& node) {
    add(node, {.stale = true});
}

void Refresher::refresh(const NodePtr& node, Done done) {
    add(node, {.stale = true, .refreshed = {std::move(done)}});
}

void Refresher::write_back_and_refresh(const NodePtr& node, Done done) {
    add(node, {.stale = true, .stored_to = true, .refreshed = {std::move(done)}});
}

void Refresher::refresh(const NodePtr& node, off_t offset, off_t length, Done done) {
    add(node, {.part = pages_of(offset, static_cast<std::uint64_t>(length)), .refreshed = {std::move(done)}});
}

void Refresher::grow(const NodePtr& node, off_t real_size, Done done) {
    Pass wanted{.real_size = real_size};
    if (done) wanted.grown.push_back(std::move(done));
    add(node, std::move(wanted));
}

void Refresher::add(const NodePtr& node, Pass wanted) {
    {
        const std::lock_guard lock(mutex_);
        add_locked(node, std::move(wanted));
    }
    woken_.notify_one();
}

void Refresher::add_locked(const NodePtr& node, Pass wanted) {
    const auto [place, is_new] = entries_.try_emplace(node.get());
    Entry& entry = place->second;
    try {
        entry.node = node;
        merge(entry.wanted, std::move(wanted));
        if (is_new) {
            entry.place = prompt_.insert(prompt_.end(), node.get());
            entry.queue = &prompt_;
        } else if (entry.queue == &restless_ && !nobody_waits(entry)) {
            move_to(entry, prompt_);
        }
    } catch (...) {
        if (is_new) entries_.erase(place);
        throw;
    }
}

// Whoever waits for one of them then waits for both.
void Refresher::merge(Pass& pass, Pass other) {
    pass.grown.insert(pass.grown.end(), other.grown.begin(), other.grown.end());
    pass.refreshed.insert(pass.refreshed.end(), other.refreshed.begin(), other.refreshed.end());
    pass.real_size = std::max(pass.real_size, other.real_size);
    pass.stale |= other.stale;
    pass.stored_to |= other.stored_to;
    if (pass.part && other.part) {
        const std::uint64_t end = std::max(pass.part->end(), other.part->end());
        pass.part->first = std::min(pass.part->first, other.part->first);
        pass.part->count = end - pass.part->first;
    } else if (other.part) {
        pass.part = other.part;
    }
}

// To the end of a queue. Needs no memory. With the lock held.
void Refresher::move_to(Entry& entry, Queue& queue) {
    queue.splice(queue.end(), *entry.queue, entry.place);
    entry.queue = &queue;
}

// With the lock held.
bool Refresher::nobody_waits(const Entry& entry) {
    const auto is_waited_for = [](const Pass& pass) { return pass.real_size >= 0 || !pass.refreshed.empty(); };
    return !is_waited_for(entry.wanted) && !(entry.under_way && is_waited_for(*entry.under_way));
}

// Moves those that were refreshed a moment ago, and that nobody waits for, out of the way of the others. With the lock
// held, and while nobody has the turn.
void Refresher::sort_out_restless() {
    const auto now = Clock::now();
    while (!prompt_.empty()) {
        Entry& entry = entries_.at(prompt_.front());
        const View* const view = entry.node->view_if_opened();
        const bool is_restless =
            entry.is_restless || (view != nullptr && now - view->pace.last_refresh < restless_within);
        if (!is_restless || !nobody_waits(entry)) return;
        entry.is_restless = true;  // until the pass has ended, however long it takes
        move_to(entry, restless_);
    }
}

// The queue whose turn it is. Null where there is none now: `ready` says when there will be, if nothing is added. With
// the lock held.
Refresher::Queue* Refresher::next_queue(Clock::time_point& ready) {
    sort_out_restless();
    ready = Clock::time_point::max();
    if (!prompt_.empty() && (restless_.empty() || !prompt_has_had_its_turn_)) return &prompt_;
    if (restless_.empty()) return nullptr;
    const auto now = Clock::now();
    ready = restless_allowance_.ready(now);
    if (ready <= now || stopping_) return &restless_;
    return prompt_.empty() ? nullptr : &prompt_;
}

void Refresher::run() {
    prepare_pulse();
    std::unique_lock lock(mutex_);
    for (;;) {
        auto ready = Clock::time_point::max();
        if (Queue* const queue = turn_.empty() ? next_queue(ready) : nullptr) {
            take_turn(*queue, lock);
            continue;
        }
        if (ready != Clock::time_point::max()) {
            ++counters_.held_back;
            woken_.wait_until(lock, ready);
            continue;
        }
        if (stopping_ && turn_.empty()) return;
        woken_.wait(lock);
    }
}

void Refresher::changed_and_help(const NodePtr& node) {
    std::unique_lock lock(mutex_);
    add_locked(node, {.stale = true});
    if (!turn_.empty()) return;  // who has it sees to the rest
    Clock::time_point ready;
    if (Queue* const queue = next_queue(ready)) take_turn(*queue, lock);
    if (stopping_ || !prompt_.empty() || !restless_.empty()) woken_.notify_one();
}

void Refresher::take_turn(Queue& queue, std::unique_lock<std::mutex>& lock) {
    Entry& entry = entries_.at(queue.front());  // stays where it is while others come and go
    move_to(entry, turn_);
    prompt_has_had_its_turn_ = &queue == &prompt_;
    if (!entry.under_way) {
        entry.under_way = std::exchange(entry.wanted, {});
    } else {
        // Who waits for growth does not wait for the pass.
        entry.under_way->real_size = std::exchange(entry.wanted.real_size, -1);
        entry.under_way->grown.swap(entry.wanted.grown);
    }
    const auto begun = Clock::now();
    const AtWork at_work("refreshing views");
    fault_point("refresher.turn");
    go_on_or_erase(entry, entry.node, lock);
    const auto now = Clock::now();
    if (&queue == &restless_) restless_allowance_.spend(now - begun, now);
}

void Refresher::go_on_or_erase(Entry& entry, NodePtr node, std::unique_lock<std::mutex>& lock) {
    Pass& pass = *entry.under_way;
    lock.unlock();
    const bool done = go_on(node, pass);
    if (done) call_all(*node, pass.refreshed);
    lock.lock();
    if (done) {
        entry.wanted.stale |= pass.again;
        entry.under_way.reset();
        entry.is_restless = false;
    }
    const Pass& wanted = entry.wanted;
    if (entry.under_way || wanted.stale || wanted.part || wanted.real_size >= 0) return move_to(entry, prompt_);
    turn_.clear();
    entries_.erase(node.get());
    lock.unlock();
    node.reset();  // may close its descriptor: not under the lock
    lock.lock();
}

bool Refresher::go_on(const NodePtr& node, Pass& pass) {
    try {
        View* const view = node->view_if_opened();
        const struct stat file = grow_if_outgrown(*node, pass);
        call_all(*node, pass.grown);
        if ((!pass.stale && !pass.part) || view == nullptr) return true;
        if (!std::exchange(pass.begun, true)) begin(*node, *view, file, pass);
        const auto end_of_turn = Clock::now() + turn_time;
        while (Clock::now() < end_of_turn) {
            if (go_on_slice(*node, *view, pass)) return true;
        }
        return false;
    } catch (const std::exception& failure) {
        drop_all(*node);
        if (View* const view = node->view_if_opened()) {
            if (const auto shadow = view->shadow()) shadow->note_failure();
        }
        log::error("inode {}: its view is read anew: {}", node->key().inode, failure.what());
        call_all(*node, pass.grown);
        return true;
    }
}

// What needs neither memory nor a descriptor.
void Refresher::drop_all(Node& node) {
    ++counters_.whole_drops;
    if (View* const view = node.view_if_opened()) view->pages().clear();
    pages_.drop(node.id(), 0, 0);
}

// Returns what the file looked like just before.
struct stat Refresher::grow_if_outgrown(Node& node, Pass& pass) {
    struct stat file {};
    // Of a file that may make us wait only what somebody else has asked is known.
    if (!node.access().is_slow) sys::check(sys::look(node.descriptor(), file) ? 0 : -1, "fstatat");
    const off_t asked_for = std::exchange(pass.real_size, -1);
    const off_t size = view_size(std::max(asked_for, file.st_size), max_size_, node.view_size());
    const bool grows = size > node.view_size();
    node.grow_view(size);
    if (grows || (asked_for >= 0 && node.outgrown())) {
        View* const view = node.view_if_opened();
        if (const auto shadow = view == nullptr ? nullptr : view->shadow()) shadow->grow(size);
        tell_size(node);
    }
    return file;
}

void Refresher::tell_size(Node& node) {
    const off_t size = node.view_size();
    // The byte that is stored behind the view makes or changes a page there, and the view may grow over it.
    View* const view = node.view_if_opened();
    const PageRange behind{page_of(size), 1};
    if (view != nullptr) view->pages().make_unknown(behind);
    pages_.grow(node.id(), size);
    fault_point("refresher.grown");
    if (view != nullptr) view->pages().make_unknown(behind);  // a READ may have come between
    node.told_kernel();
}

void Refresher::begin(Node& node, View& view, const struct stat& file, Pass& pass) {
    count(counters_, &view.counters(), &ViewCounters::refreshes);
    pass.file_size = file.st_size;
    pass.may_push = view.pace.pushes < pushes_at_most;
    if (!pass.may_push) view.pace.pushes = 0;
    pass.cut_off = no_end;
    if (pass.stale) {
        view.note_seen(file);
        const off_t before = std::exchange(view.pace.shown_size, pass.file_size);
        if (before != pass.file_size) pass.start = pass.cursor = page_of(std::min(before, pass.file_size));
        const std::uint64_t end = page_behind(pass.file_size);
        if (page_behind(before) >= end + many_pages) pass.cut_off = end;
    } else {
        pass.start = pass.cursor = pass.part->first;
        pass.end = pass.part->end();
    }
    if (const auto shadow = view.shadow()) begin_shadow(node, *shadow, view, pass);
    // Clients' stores are written back as their pages are dropped (invalidate_inode_pages2).
    if (pass.stored_to || view.pages().lost_count() || !view.readable()) drop_all(node);
}

void Refresher::begin_shadow(Node& node, Shadow& shadow, View& view, Pass& pass) {
    // It may have been made, or found, while the view grew.
    shadow.grow(node.view_size());
    // What the file has lost is gone at once.
    const auto [before, now, lost] = shadow.cut(node.descriptor());
    const std::uint64_t end = page_behind(std::min(now, node.view_size()));
    pass.shadowed = {0, end};
    if (!pass.stale) {
        pass.shadowed.first = std::min(pass.part->first, end);
        pass.shadowed.count = std::min(pass.part->end(), end) - pass.shadowed.first;
    }
    count(counters_, &view.counters(), &ViewCounters::bytes_zeroed, static_cast<std::uint64_t>(lost));
    const bool has_shown_end = shadow.has_shown_end.exchange(false);
    if (has_shown_end || before != now) {
        // splice(2) is to ask us where the file ends now, and not to find pages from behind its end.
        const std::uint64_t first = page_of(std::min(before, now));
        if (node.view_size() > offset_of(first)) {
            view.pages().forget({first, page_of(node.view_size()) + 1 - first});
            pages_.drop(node.id(), offset_of(first), 0);
        }
    }
    if (has_shown_end) tell_size(node);
    if (pass.stale && pass.shadowed.count == 0) shadow.note_whole();
}

// The next pages to look at, none where the pass is done.
std::optional<PageRange> Refresher::next_range(View& view, Pass& pass) {
    auto range = view.pages().next(pass.cursor, slice_pages);
    if (!range && pass.stale && pass.end == no_end) {
        pass.end = pass.start;
        range = view.pages().next(0, slice_pages);
    }
    if (!range || range->first >= pass.end) return std::nullopt;
    range->count = std::min(range->end(), pass.end) - range->first;
    if (range->first < pass.cut_off && pass.cut_off < range->end()) range->count = pass.cut_off - range->first;
    pass.cursor = range->end();
    return range;
}

// Returns whether there was anything to be done.
bool Refresher::go_on_shadow(Node& node, View& view, Pass& pass) {
    const auto shadow = view.shadow();
    PageRange& left = pass.shadowed;
    if (!shadow || left.count == 0) return false;
    try {
        const auto fd = view.readable();
        if (!fd) throw std::runtime_error("no descriptor is left to read the file by");
        const std::uint64_t holes =
            ShadowCopier::holes(fd->get(), *shadow, offset_of(left.first), left.count * page_size());
        PageRange slice{left.first, holes / page_size()};
        if (holes == 0) {
            slice.count = std::min(left.count, slice_pages);
            copy_to_shadow(*shadow, view, fd->get(), slice);
        }
        left = {slice.end(), left.count - slice.count};
    } catch (const std::exception& failure) {
        // There is no memory. Whoever looks after shadows sees that this one is tried again.
        if (shadow->note_failure()) log::error("inode {}: its shadow: {}", node.key().inode, failure.what());
        pass.shadow_failed = true;
        left = {};
    }
    // Not by a pass over a part.
    if (left.count == 0 && pass.stale && !pass.shadow_failed) shadow->note_whole();
    return true;
}

void Refresher::copy_to_shadow(Shadow& shadow, View& view, int fd, PageRange slice) {
    const ShadowCopier::Step step = copier_->copy(fd, shadow, offset_of(slice.first), slice.count * page_size());
    counters_.pages_compared += step.compared;
    count(counters_, &view.counters(), &ViewCounters::pages_pushed, step.copied);
    count(counters_, &view.counters(), &ViewCounters::pages_dropped, step.punched);
    if (step.left_out > 0) throw std::runtime_error("what shadows may take of memory is used up");
    if (step.error == 0) return;
    shadow.note_unread();
    errors_.report(fd, step.error);
    ++view.counters().read_errors;
}

bool Refresher::go_on_slice(Node& node, View& view, Pass& pass) {
    if (go_on_shadow(node, view, pass)) return false;
    const auto range = next_range(view, pass);
    if (!range) {
        // Where the count was lost meanwhile, there were pages that this pass has not seen.
        if (view.pages().lost_count()) drop_all(node);
        view.pace.last_refresh = Clock::now();
        if (pass.pushed) ++view.pace.pushes;
        return true;
    }
    const auto fd = view.readable();
    if (range->first >= pass.cut_off || !fd) {
        drop(node, view, *range);
    } else {
        look_at(node, view, fd->get(), *range, pass);
    }
    return false;
}

void Refresher::look_at(Node& node, View& view, int fd, PageRange range, Pass& pass) {
    const auto states = std::span(states_).first(range.count);
    const auto differs = std::span(differs_.get(), range.count);
    view.pages().copy(range, states);
    counters_.pages_compared += range.count;
    // Clients that write may have stored past the end, which is to vanish, and of which nobody has told us.
    if (view.has_writers()) {
        const std::uint64_t end = std::max(range.first, page_of(pass.file_size));
        for (std::uint64_t page = end; page < range.end(); ++page) {
            auto& state = states[page - range.first];
            if (state != GivenPages::absent) state |= 1;
        }
    }
    // Many pages are compared on all processors first, to find those that are worth a closer look.
    const bool is_much = range.count >= Crew::worth_sharing;
    if (is_much) {
        compare_->compare(fd, range.first, states, differs);
    } else {
        std::fill(differs.begin(), differs.end(), true);
    }
    for (std::uint64_t at = 0; at < range.count;) {
        const std::uint64_t count = worth_a_look(differs.subspan(at, std::min(window_pages, range.count - at)));
        if (count > 0) bring_up_to_date(node, view, fd, range.first + at, states.subspan(at, count), pass);
        at += std::max<std::uint64_t>(count, 1);
    }
}

// For one window. A push stores what has just been read, so it begins before that.
void Refresher::bring_up_to_date(Node& node, View& view, int fd, std::uint64_t first,
                                 std::span<GivenPages::State> states, Pass& pass) {
    const bool may_push = pass.may_push && view.begin_push();
    // Ends it whatever happens.
    std::unique_ptr<View, void (*)(View*)> push_ending(may_push ? &view : nullptr, [](View* v) { v->end_push(); });
    const auto bytes = std::span(window_).first(states.size() * page_size());
    std::array<PageDigest, window_pages> room{};
    const PaddedRead read = read_padded(fd, bytes, offset_of(first));
    const auto digests = digester_.digest(bytes, read.real_bytes, room);
    const auto is_stale = [&](std::size_t i) {
        return states[i] != GivenPages::absent && (states[i] != digests[i] || !is_read(read, i));
    };
    std::array<PageRange, window_pages> dropping{};  // once the push has ended: to drop may take long
    std::size_t drops = 0;
    for (std::size_t i = 0; i < states.size();) {
        std::size_t run = 0;
        while (i + run < states.size() && is_stale(i + run)) ++run;
        if (run == 0) {
            ++i;
            continue;
        }
        const std::size_t at = i * page_size();
        const std::size_t length = run * page_size();
        const bool is_pushed = may_push && read.error == 0 &&
                               push(node, view, first + i, states.subspan(i, run), bytes.subspan(at, length),
                                    digests.subspan(i, run), pass);
        if (!is_pushed) dropping[drops++] = {first + i, run};
        if (is_pushed) note_zeros(view, length, std::clamp(read.real_bytes, at, at + length) - at);
        i += run;
    }
    push_ending.reset();
    for (const PageRange& range : std::span(dropping).first(drops)) drop(node, view, range);
}

// Returns whether the kernel has the bytes now, or another refresh will see to it.
bool Refresher::push(Node& node, View& view, std::uint64_t first, std::span<GivenPages::State> states,
                     std::span<const std::byte> bytes, std::span<const PageDigest> digests, Pass& pass) {
    const PageRange range{first, states.size()};
    // An unknown page is one that a READ may be filling just now, and a push could come before or after it: not
    // claimed.
    const GivenPages::State token = view.pages().claim(range, states);
    if (std::find(states.begin(), states.end(), GivenPages::absent) != states.end()) return false;
    fault_point("refresher.push");
    if (!pages_.push(node.id(), offset_of(first), bytes)) return false;
    count(counters_, &view.counters(), &ViewCounters::pages_pushed, range.count);
    pass.pushed = true;
    if (!view.pages().settle(token, first, states, digests)) pass.again = true;
    return true;
}

// Of `length` bytes that were pushed, the first `real_bytes` are the file's.
void Refresher::note_zeros(View& view, std::size_t length, std::size_t real_bytes) {
    if (real_bytes == length) return;
    count(counters_, &view.counters(), &ViewCounters::bytes_zeroed, length - real_bytes);
    count(counters_, &view.counters(), &ViewCounters::faults_averted, (length - real_bytes) / page_size());
}

void Refresher::drop(Node& node, View& view, PageRange range) {
    view.pages().forget(range);
    fault_point("refresher.drop");
    pages_.drop(node.id(), offset_of(range.first), offset_of(range.count));
    count(counters_, &view.counters(), &ViewCounters::pages_dropped, range.count);
}

void Refresher::call_all(const Node& node, std::vector<Done>& done) {
    for (const Done& each : std::exchange(done, {})) {
        try {
            each();
        } catch (const std::exception& failure) {
            log::error("inode {}: {}", node.key().inode, failure.what());
        }
    }
}

}  // namespace nosigbus
