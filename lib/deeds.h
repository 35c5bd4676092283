// Requests that must not be done twice. When a worker dies between doing and answering, the kernel asks its successor
// for the same again, and a second unlink would be ENOENT, a second append one record too many. So what is about to be
// done is noted first, with what things were like before; then what came of it. The successor finds the note: it gives
// the answer of then, or, where the note ends before the deed, sees from what has changed whether it was done.
#pragma once

#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "lib/shared_state.h"

namespace nosigbus {

// What stands at `name` in `directory`, without following a link; with "" as name, the inode behind that descriptor
// itself. Nothing where that cannot be told.
Identity identity_at(int directory, const char* name) noexcept;

// The time that Before notes: not later than the dates of what is made from now on.
void date(Before& before) noexcept;

// Whether `now`, where nothing stood before, can have been made after that.
bool is_new_since(const Before& before, const Identity& now);

// The note of one request. Kept until the kernel has the answer: it goes with the last owner.
class Deed {
  public:
    Deed() = default;
    Deed(SlotTable<DeedSlot>& table, DeedSlot& slot) : table_(&table), slot_(&slot) {}
    Deed(Deed&& other) noexcept : table_(other.table_), slot_(std::exchange(other.slot_, nullptr)) {}
    Deed& operator=(Deed&& other) noexcept {
        std::swap(table_, other.table_);
        std::swap(slot_, other.slot_);
        return *this;
    }
    Deed(const Deed&) = delete;
    Deed& operator=(const Deed&) = delete;
    ~Deed() {
        if (slot_ != nullptr) table_->give_back(*slot_);
    }

    [[nodiscard]] explicit operator bool() const { return slot_ != nullptr; }
    [[nodiscard]] const Before& before() const { return slot_->before; }

    // Whether it is known what came of it; then the result, or std::system_error with the errno of then.
    [[nodiscard]] bool is_done() const { return slot_->is_done; }
    [[nodiscard]] std::int64_t result() const;

    void done(std::int64_t result) noexcept;
    void failed(int error) noexcept;

  private:
    SlotTable<DeedSlot>* table_ = nullptr;
    DeedSlot* slot_ = nullptr;
};

// Thread-safe.
class Deeds {
  public:
    explicit Deeds(SharedState& state) : table_(state.deeds()) {}

    // Finds the notes that a worker left that died. Throws std::bad_alloc.
    void take_over();

    // To be called before it is done. Throws std::system_error ENFILE.
    Deed begin(RequestNumber request, const Before& before);

    // The kernel asks for `request` again. Returns whether a worker that died left a note of it.
    bool asked_again(RequestNumber request);

    // That note; empty where there is none.
    Deed find(RequestNumber request);

    // The kernel has asked again for all that was not answered: the other notes are of what was.
    void all_asked();

  private:
    SlotTable<DeedSlot>& table_;
    mutable std::mutex mutex_;
    std::unordered_map<RequestNumber, DeedSlot*> former_;
    std::unordered_map<RequestNumber, DeedSlot*> asked_again_;
};

}  // namespace nosigbus
