// Where and when something was measured: numbers without it say little.
#pragma once

#include <string>

namespace nosigbus::bench {

// Some lines for the head of the output, among them which contenders take part.
std::string description_of_machine();

}  // namespace nosigbus::bench
