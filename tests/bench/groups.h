// What can be measured. Each group mounts what it needs, prints its table and leaves nothing behind.
#pragma once

#include <array>
#include <string_view>

namespace nosigbus::bench {

// How much is measured: enough to be believed, or so little that a machine that only builds has time for it.
enum class Form { full, quick };

template <typename Value>
Value choose(Form form, Value full, Value quick) {
    return form == Form::full ? full : quick;
}

void measure_latency(Form form);
void measure_barrier(Form form);
void measure_open(Form form);
void measure_mapped(Form form);
void measure_read(Form form);
void measure_metadata(Form form);
void measure_alternatives(Form form);
void measure_pools(Form form);
void measure_frames(Form form);

struct Group {
    std::string_view name;
    std::string_view what;
    void (*measure)(Form form);
};

inline constexpr std::array groups = {
    Group{"latency", "from a change of the file to a load that shows it", measure_latency},
    Group{"barrier", "fsync on a view, and reading it afterwards", measure_barrier},
    Group{"open", "what opening a view costs, by the size of its file", measure_open},
    Group{"mapped", "loads from a mapping, cold and warm", measure_mapped},
    Group{"read", "read(2) and pread(2)", measure_read},
    Group{"metadata", "create, stat, open and unlink", measure_metadata},
    Group{"alternatives", "other ways to read a frame that may be truncated", measure_alternatives},
    Group{"pools", "frames of clients that share a descriptor, by way of libnosigbus", measure_pools},
    Group{"frames", "the frame loop of a compositor whose client draws 60 times a second", measure_frames},
};

}  // namespace nosigbus::bench
