#include "tests/bench/contenders.h"

#include <utility>

#include "tests/bench/programs.h"

namespace nosigbus::bench {

Contenders::Contenders(bool others) {
    mount("nosigbus", {NOSIGBUS_DAEMON, "-f"});
    if (!others) return;
    for (const OtherProgram& program : other_programs()) {
        if (!program.installed()) continue;
        std::vector<std::string> command = {program.name};
        command.insert(command.end(), program.options.begin(), program.options.end());
        mount(program.name, std::move(command));
    }
}

void Contenders::mount(const std::string& name, std::vector<std::string> command) {
    const std::string mountpoint = scratch_->make_directory(name);
    command.insert(command.end(), {scratch_->source(), mountpoint});
    mounts_.push_back(std::make_unique<FuseMount>(command, mountpoint));
    names_.push_back(name);
}

std::string Contenders::path(std::size_t contender, const std::string& name) const {
    const std::string directory = contender == raw ? scratch_->source() : mounts_.at(contender - 1)->mountpoint();
    return directory + "/" + name;
}

void Contenders::take_turns(std::size_t rounds, const std::function<void(std::size_t contender)>& measure) const {
    for (std::size_t round = 0; round < rounds; ++round) {
        for (std::size_t turn = 0; turn < count(); ++turn) measure((round + turn) % count());
    }
}

void Contenders::end() {
    for (const auto& mount : mounts_) mount->end();
}

}  // namespace nosigbus::bench
