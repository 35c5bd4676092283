// Names of fault points, "NAME [PASSES]".
#pragma once

#include <string>
#include <vector>

namespace nosigbus::test {

using Points = std::vector<std::string>;

inline Points operator+(Points points, const Points& more) {
    points.insert(points.end(), more.begin(), more.end());
    return points;
}

// Before the handler of each of these requests, before its answer, and after it.
inline Points around(const std::vector<std::string>& requests) {
    Points points;
    for (const std::string& request : requests)
        points = std::move(points) + Points{"request." + request, "answer." + request, "processed." + request};
    return points;
}

// What is noted of a deed; of one that fails it is noted without being passed.
inline const Points noted_deed = {"deed.begun", "deed.executed", "deed.done"};
inline const Points refused_deed = {"deed.begun"};

// A view that grows.
inline const Points outgrows = {"view.grows", "view.grown", "refresher.grown"};

// Of so many slots that are taken, and of so many that are given back.
inline Points slots(unsigned taken, unsigned given_back) {
    Points points;
    const auto add = [&points](const char* point, unsigned count) {
        for (unsigned passes = 0; passes < count; ++passes)
            points.push_back(std::string(point) + ' ' + std::to_string(passes));
    };
    add("slot.filled", taken);
    add("slot.published", taken);
    add("slot.turned", given_back);
    add("slot.free", given_back);
    return points;
}

}  // namespace nosigbus::test
