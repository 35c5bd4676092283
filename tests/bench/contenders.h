// Who is measured side by side: a directory, and the mounts that mirror it.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/bench/fuse_mount.h"
#include "tests/bench/scratch.h"

namespace nosigbus::bench {

class Contenders {
  public:
    // The first two are always there, the others where they are installed.
    static constexpr std::size_t raw = 0;
    static constexpr std::size_t nosigbus = 1;

    static Contenders all() { return Contenders(true); }
    static Contenders only_nosigbus() { return Contenders(false); }

    [[nodiscard]] std::size_t count() const { return mounts_.size() + 1; }
    [[nodiscard]] std::vector<std::string> names() const { return names_; }

    // The file `name` of the source, as `contender` shows it.
    [[nodiscard]] std::string path(std::size_t contender, const std::string& name) const;

    // Calls `measure` with each contender in each round. Every round begins with another one: what disturbs the machine
    // for a while, or whenever a round begins, is not always in the way of the same one.
    void take_turns(std::size_t rounds, const std::function<void(std::size_t contender)>& measure) const;

    // Unmounts everything, and throws where a server does not end as it should. All files must be closed.
    void end();

  private:
    explicit Contenders(bool others);
    void mount(const std::string& name, std::vector<std::string> command);

    std::unique_ptr<Scratch> scratch_ = std::make_unique<Scratch>();
    std::vector<std::string> names_ = {"raw"};
    std::vector<std::unique_ptr<FuseMount>> mounts_;
};

}  // namespace nosigbus::bench
