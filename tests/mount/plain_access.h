// For functions that load from pages or store to them which may fault, or which others change.
#pragma once

// The accesses are plain ones, whatever the program is built with: a sanitizer knows nothing of these pages, and must
// not be left by a jump in the midst of its own work. Nor are they in the caller, where the compiler could move or drop
// what has no effect.
#define NOSIGBUS_PLAIN_ACCESS __attribute__((noinline, no_sanitize("address", "thread", "undefined")))
