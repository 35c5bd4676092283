// The example of a compositor, between clients that draw and clients that do their worst (tests/wayland), whose memory
// it sees by way of libnosigbus. NOSIGBUS_STORM_SECONDS says for how long; the default is short, 60 is the full form.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <map>
#include <memory>
#include <sstream>
#include <vector>

#include "tests/mount/footprint.h"
#include "tests/mount/process.h"
#include "tests/mount/storm.h"
#include "tests/mount/view_mount.h"
#include "tests/mount/worker.h"

using namespace nosigbus;
using namespace nosigbus::test;
using namespace std::chrono_literals;

namespace {

constexpr std::chrono::seconds short_form{4};
constexpr auto between_disturbances = 400ms;
// What nosigbus may have open for a moment: its refresher, and who forgets what was closed.
constexpr std::size_t descriptor_slack = 2;

// What the programs need to find each other below `directory`; and nobody wants a core file of what is to die.
Process::Setup beside(const std::string& directory) {
    return {.environment = {"XDG_RUNTIME_DIR=" + directory, "WAYLAND_DISPLAY=wayland-test"}, .before_exec = [] {
                const rlimit none{};
                ::setrlimit(RLIMIT_CORE, &none);
            }};
}

std::vector<std::string> compositor_command(const std::vector<std::string>& options) {
    std::vector<std::string> command = {NOSIGBUS_COMPOSITOR, "--socket", "wayland-test"};
    command.insert(command.end(), options.begin(), options.end());
    return command;
}

class Compositor : public Process {
  public:
    Compositor(const std::string& directory, const std::vector<std::string>& options)
        : Process(compositor_command(options), beside(directory)) {
        REQUIRE(eventually([&] { return output().starts_with("listening") || !running(); }));
    }

    std::string end() {
        ::kill(pid(), SIGTERM);
        return wait();
    }
};

// What the compositor says of a client, in all the connections that it had.
struct Account {
    unsigned long connections = 0;
    unsigned long frames = 0;
    unsigned long proven = 0;
    unsigned long wrong = 0;
    unsigned long short_pools = 0;
    unsigned long reports = 0;
    unsigned long refusals = 0;
};

std::map<pid_t, Account> accounts(const std::string& output) {
    std::map<pid_t, Account> all;
    std::istringstream lines(output);
    for (std::string line; std::getline(lines, line);) {
        pid_t pid = 0;
        Account one;
        if (std::sscanf(line.c_str(), "client %d: %lu frames, %lu proven, %lu wrong, %lu short", &pid, &one.frames,
                        &one.proven, &one.wrong, &one.short_pools) == 5) {
            Account& sum = all[pid];
            ++sum.connections;
            sum.frames += one.frames;
            sum.proven += one.proven;
            sum.wrong += one.wrong;
            sum.short_pools += one.short_pools;
            sum.refusals += line.find("; refused: ") != std::string::npos ? 1 : 0;
        } else if (std::sscanf(line.c_str(), "client %d lies: ", &pid) == 1) {
            ++all[pid].reports;
        }
    }
    return all;
}

using Clients = std::vector<std::unique_ptr<Process>>;

Clients start(const std::string& directory, const char* program, const std::vector<std::string>& kinds) {
    Clients clients;
    for (const std::string& kind : kinds)
        clients.push_back(std::make_unique<Process>(std::vector<std::string>{program, kind}, beside(directory)));
    return clients;
}

// Those that have ended, and why; nothing where all run.
std::string ended(const Clients& clients) {
    std::string all;
    for (const auto& client : clients) {
        if (!client->running()) all += client->wait() + ": " + client->errors();
    }
    return all;
}

// The worker, the supervisor and the heir are killed by turns, and another nosigbus takes over.
void disturb(ViewMount& mount, unsigned turn) {
    const auto has_heir = [&] { return heir_of(mount.pid()) != 0; };
    REQUIRE(eventually(has_heir));
    switch (turn % 4) {
        case 0:
            CHECK(eventually([&] { return kill_worker(mount.pid()) != 0; }));
            break;
        case 1:
            mount.kill_supervisor();
            break;
        case 2: {
            const pid_t heir = heir_of(mount.pid());
            ::kill(heir, SIGKILL);
            CHECK(eventually([&] { return has_heir() && heir_of(mount.pid()) != heir; }));
            break;
        }
        default: {
            const Run reload = run({daemon_program, "--reload", mount.mountpoint()});
            CHECK_MESSAGE(reload.ending == "exit 0", reload.errors);
        }
    }
}

}  // namespace

TEST_SUITE_BEGIN("wayland");

TEST_CASE("a compositor outlives clients that do their worst, and deaths of nosigbus, and sees what the others drew") {
    // More than a pool can have, which is 2 GiB less a byte.
    ViewMount mount({"max_size=2G"});
    Compositor compositor(mount.root(), {"--mount", mount.mountpoint()});
    const std::size_t descriptors = open_descriptors(mount.pid());
    const std::size_t its_descriptors = open_descriptors(compositor.pid());
    const Clients friendly = start(mount.root(), NOSIGBUS_FRIENDLY_CLIENT, {"memfd", "shm", "sealed"});
    const Clients hostile = start(mount.root(), NOSIGBUS_HOSTILE_CLIENT, {"memfd", "shm", "tmpfile", "sealed"});

    const auto is_broken = [&] { return !compositor.running() || !ended(friendly).empty() || !ended(hostile).empty(); };
    const auto start = std::chrono::steady_clock::now();
    unsigned disturbances = 0;
    while (disturbances < 4 || std::chrono::steady_clock::now() - start < storm_duration(short_form)) {
        if (eventually(is_broken, between_disturbances)) break;
        disturb(mount, disturbances++);
    }
    CHECK(compositor.wait(0ms) == "still running");
    CHECK(ended(friendly) == "");
    CHECK(ended(hostile) == "");

    for (const auto& client : hostile) ::kill(client->pid(), SIGTERM);
    for (const auto& client : hostile) CHECK_MESSAGE(client->wait() == "exit 0", client->errors());
    for (const auto& client : friendly) ::kill(client->pid(), SIGTERM);
    for (const auto& client : friendly) CHECK(client->wait() == "killed by SIGTERM");
    // Nothing is left of all these views.
    CHECK(eventually([&] { return open_descriptors(compositor.pid()) == its_descriptors; }));
    CHECK(eventually([&] { return open_descriptors(mount.pid()) <= descriptors + descriptor_slack; }));
    CHECK(compositor.end() == "exit 0");

    auto all = accounts(compositor.output());
    CHECK(all.size() == friendly.size() + hostile.size());
    for (const auto& client : friendly) {
        const Account& account = all[client->pid()];
        CHECK(account.proven > 0);
        CHECK(account.proven == account.frames);
        CHECK(account.short_pools == 0);
        CHECK(account.refusals == 0);
    }
    for (const auto& client : hostile) {
        const Account& account = all[client->pid()];
        unsigned long connections = 0;
        unsigned long frames = 0;
        REQUIRE(std::sscanf(client->output().c_str(), "%lu connections, %lu frames", &connections, &frames) == 2);
        CHECK(account.frames == frames);
        CHECK(account.connections == connections);
        CHECK(account.refusals == connections);
        CHECK(account.reports > 0);
    }
    const std::string output = compositor.output();
    MESSAGE(disturbances, " deaths and reloads; friendly clients: ", all[friendly[0]->pid()].frames, ", ",
            all[friendly[1]->pid()].frames, " and ", all[friendly[2]->pid()].frames,
            " frames; all: ", output.substr(output.rfind('\n', output.size() - 2) + 1));
}

TEST_CASE("the same compositor without views is killed by the same client") {
    const Directories directories;
    for (const char* kind : {"memfd", "shm", "tmpfile"}) {
        CAPTURE(kind);
        Compositor compositor(directories.root(), {"--plain"});
        const Clients clients = start(directories.root(), NOSIGBUS_HOSTILE_CLIENT, {kind});
        CHECK(compositor.wait() == "killed by SIGBUS");
        CHECK(clients[0]->wait() == "exit 1");
    }
}

TEST_CASE("without views of descriptors the compositor does not begin") {
    const ViewMount mount({"fd_views=no"});
    for (const std::string& directory : {mount.mountpoint(), mount.source(), mount.root() + "/nothing"}) {
        const Run it = run(compositor_command({"--mount", directory}), beside(mount.root()));
        CHECK(it.ending == "exit 1");
        CHECK(it.output == "");
        CHECK(it.errors.starts_with("compositor: " + directory + ": "));
    }
}

TEST_SUITE_END();
