// Who is measured side by side: a directory, and the mounts that mirror it.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lib/unique_fd.h"
#include "tests/bench/fuse_mount.h"
#include "tests/bench/scratch.h"

namespace nosigbus::bench {

class Contenders {
  public:
    static constexpr std::size_t raw = 0;

    // nosigbus takes part once for each engine that the kernel can have. The others only where they are installed.
    static Contenders all() { return Contenders(true); }
    static Contenders only_nosigbus() { return Contenders(false); }

    [[nodiscard]] std::size_t count() const { return mounts_.size() + 1; }
    [[nodiscard]] const std::vector<std::string>& names() const { return names_; }

    // Those that are nosigbus.
    [[nodiscard]] std::vector<std::size_t> views() const;
    [[nodiscard]] const std::string& engine(std::size_t view) const { return engines_.at(view); }

    // The file `name` of the source, as `contender` shows it.
    [[nodiscard]] std::string path(std::size_t contender, const std::string& name) const;

    // Opens it for reading. Throws where that gives a view with another engine than the contender's.
    [[nodiscard]] UniqueFd open_to_read(std::size_t contender, const std::string& name) const;

    // The same of a view that somebody else has opened.
    void check_engine(std::size_t contender, int view) const;

    // Waits until nothing is left of what was open: a shadow outlives the last close a little.
    void come_to_rest(std::size_t contender) const;

    // Calls `measure` with each contender in each round. Every round begins with another one: what disturbs the machine
    // for a while, or whenever a round begins, is not always in the way of the same one.
    void take_turns(std::size_t rounds, const std::function<void(std::size_t contender)>& measure) const;

    // Unmounts everything, and throws where a server does not end as it should. All files must be closed.
    void end();

  private:
    explicit Contenders(bool others);
    void mount_views(const std::string& engine);
    void mount(const std::string& name, std::vector<std::string> command);

    std::unique_ptr<Scratch> scratch_ = std::make_unique<Scratch>();
    std::vector<std::string> names_ = {"raw"};
    std::vector<std::string> engines_ = {""};  // of each contender that is nosigbus
    std::vector<std::unique_ptr<FuseMount>> mounts_;
};

}  // namespace nosigbus::bench
