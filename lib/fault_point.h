// Named places where a test can make this process die or hang, in builds for tests (NOSIGBUS_FAULT_POINTS); elsewhere
// they are nothing. A fault is asked for by setting the extended attribute user.nosigbus.fault of the mount's root to
// "NAME ACTION [PASSES]", with ACTION one of die, abort, hang, spin, deadlock, stop and nomem (which throws
// std::bad_alloc); after so many passes it happens once, however often workers are replaced.
#pragma once

#ifdef NOSIGBUS_FAULT_POINTS

#include <atomic>
#include <cstdint>
#include <string_view>

namespace nosigbus {

// What is asked for: one at a time. It lives in memory that outlives a worker.
struct Fault {
    std::atomic<std::uint64_t> name;  // 0: none. A hash, so that asking for it is one store
    std::atomic<std::uint32_t> action;
    std::atomic<std::uint32_t> skip;  // so often the place is passed unharmed
};

// From here on the faults of this process are those asked for there.
void use_faults(Fault& fault);

// Returns false for a text that is none.
bool ask_for_fault(std::string_view text);

void fault_point(std::string_view name);
// The place name + part, for names that are known at run time only.
void fault_point(std::string_view name, std::string_view part);

}  // namespace nosigbus

#else

#define fault_point(...) static_cast<void>(0)

#endif
