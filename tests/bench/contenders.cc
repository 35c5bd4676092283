#include "tests/bench/contenders.h"

#include <fmt/format.h>

#include <stdexcept>
#include <utility>

#include "tests/bench/programs.h"
#include "tests/mount/counters.h"
#include "tests/mount/eventually.h"
#include "tests/mount/files.h"
#include "tests/mount/kernel.h"

namespace nosigbus::bench {

Contenders::Contenders(bool others) {
    static const bool has_shadows = test::kernel_passes_through("the shadow engine");
    mount_views("cache");
    if (has_shadows) mount_views("shadow");
    if (!others) return;
    for (const OtherProgram& program : other_programs()) {
        if (!program.installed()) continue;
        std::vector<std::string> command = {program.name};
        command.insert(command.end(), program.options.begin(), program.options.end());
        mount(program.name, std::move(command));
    }
}

// With room for shadows of all that is measured, however little memory the machine has.
void Contenders::mount_views(const std::string& engine) {
    mount("engine=" + engine, {NOSIGBUS_DAEMON, "-f", "-o", "engine=" + engine + ",shadow_memory=2G"});
    engines_.back() = engine;
}

void Contenders::mount(const std::string& name, std::vector<std::string> command) {
    const std::string mountpoint = scratch_->make_directory(fmt::format("mount{}", mounts_.size()));
    command.insert(command.end(), {scratch_->source(), mountpoint});
    mounts_.push_back(std::make_unique<FuseMount>(command, mountpoint));
    names_.push_back(name);
    engines_.emplace_back();
}

std::vector<std::size_t> Contenders::views() const {
    std::vector<std::size_t> views;
    for (std::size_t contender = 0; contender < count(); ++contender) {
        if (!engines_[contender].empty()) views.push_back(contender);
    }
    return views;
}

std::string Contenders::path(std::size_t contender, const std::string& name) const {
    const std::string directory = contender == raw ? scratch_->source() : mounts_.at(contender - 1)->mountpoint();
    return directory + "/" + name;
}

UniqueFd Contenders::open_to_read(std::size_t contender, const std::string& name) const {
    UniqueFd file = test::open_file(path(contender, name), O_RDONLY);
    check_engine(contender, file.get());
    return file;
}

void Contenders::check_engine(std::size_t contender, int view) const {
    const std::string& wanted = engines_.at(contender);
    if (wanted.empty()) return;
    const std::string has = test::engine_of(fmt::format("/proc/self/fd/{}", view));
    if (!has.starts_with(wanted + ":"))
        throw std::runtime_error(fmt::format("a view that is to have engine={} has {}", wanted, has));
}

void Contenders::come_to_rest(std::size_t contender) const {
    if (engines_.at(contender).empty()) return;
    const std::string root = path(contender, "");
    if (!test::eventually([&] { return test::stats(root).at("shadows") == 0; }))
        throw std::runtime_error("a shadow outlives whoever had it");
}

void Contenders::take_turns(std::size_t rounds, const std::function<void(std::size_t contender)>& measure) const {
    for (std::size_t round = 0; round < rounds; ++round) {
        for (std::size_t turn = 0; turn < count(); ++turn) {
            measure((round + turn) % count());
            come_to_rest((round + turn) % count());
        }
    }
}

void Contenders::end() {
    for (const auto& mount : mounts_) mount->end();
}

}  // namespace nosigbus::bench
