// The matrix of DESIGN §2: each kind of mapping meets each change, made outside and through the view.
#pragma once

#include <string>
#include <vector>

namespace nosigbus::test {

// How a view is opened and mapped: the columns.
struct Kind {
    std::string name;
    int open_flags;
    int protection;
    int flags;
    bool private_copies = false;
};

extern const Kind shared_ro;
extern const Kind shared_rw;
extern const Kind private_clean;
extern const Kind private_cow;

// How the file system is mounted.
struct Mode {
    std::string name;
    std::vector<std::string> options;
    bool tells_real_size = false;    // stat(2) does
    bool shows_writes_soon = false;  // not when they return
};

extern const Mode stat_view;
extern const Mode stat_real;
extern const Mode cached_opens;
extern const Mode cache_engine;

// All cells of one column, on one mount. For a test case of its own: has subcases.
void check_column(const Kind& kind, const Mode& mode);

}  // namespace nosigbus::test
