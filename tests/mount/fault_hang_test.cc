// A server that hangs is replaced like one that dies.
#include <doctest/doctest.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/mount/faults.h"
#include "tests/mount/files.h"
#include "tests/mount/mapping.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

using Clock = std::chrono::steady_clock;

// The rule is 5 s, on a machine that has nothing else to do.
constexpr std::chrono::seconds deadline{20};

// A mount with a file, and a view of it that is mapped.
struct Scene {
    explicit Scene(const std::vector<std::string>& options) : mount(options) {}

    [[nodiscard]] std::string content() const { return padded(read_all(raw.get()), MiB); }
    [[nodiscard]] bool shows_file() const { return mapping.bytes() == content(); }

    const ViewMount mount;
    const UniqueFd raw = make_file(mount.raw("file"), pattern(0, 10 * page));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping{view.get(), MiB};
    const Replacements replacements{mount};
    const Worker worker{mount};
};

struct Hang {
    std::string fault;
    // What a client asks for meanwhile; says what was wrong about the answer.
    std::string (*ask)(const Scene& scene);
    std::string logged;
    unsigned replacements = 1;
    std::vector<std::string> options{"max_size=1M", "engine=cache"};  // a load is to ask the server
};

std::string check_load(const Scene& scene) {
    return difference(scene.mapping.bytes(), scene.content());
}

std::string check_mkdir(const Scene& scene) {
    const std::string result = answer(::mkdir(scene.mount.view("directory").c_str(), 0755));
    if (result != "0") return result;
    return S_ISDIR(status(scene.mount.raw("directory")).st_mode) ? "" : "no directory";
}

std::string check_statfs(const Scene& scene) {
    struct statvfs found {};
    const std::string result = answer(::statvfs(scene.mount.mountpoint().c_str(), &found));
    // It may have been answered before the last thread has stopped.
    return result == "0" ? check_mkdir(scene) : result;
}

// No event tells of what is stored.
bool store(const Scene& scene) {
    return Mapping(scene.raw.get(), page, PROT_READ | PROT_WRITE).store(9, "stored") == 6;
}

std::string check_barrier(const Scene& scene) {
    if (!store(scene)) return "no store";
    const std::string result = answer(::fsync(scene.view.get()));
    return result == "0" ? check_load(scene) : result;
}

std::string check_change(const Scene& scene) {
    write_at(scene.raw.get(), page, "changed");
    return eventually([&] { return scene.shows_file(); }, deadline) ? "" : check_load(scene);
}

std::string check_silent_change(const Scene& scene) {
    if (!store(scene)) return "no store";
    return eventually([&] { return scene.shows_file(); }, deadline) ? "" : check_load(scene);
}

std::string check_start(const Scene& scene) {
    scene.worker.kill();
    return check_load(scene);
}

std::string check_end(const Scene& scene) {
    return scene.worker.ends(deadline) ? check_mkdir(scene) : "it goes on";
}

const std::vector<Hang> hangs = {
    {"request.READ hang", check_load, "a thread hangs, at work on READ"},
    {"request.READ spin", check_load, "a thread hangs, at work on READ"},
    {"request.READ deadlock", check_load, "a thread hangs, at work on READ"},
    {"request.MKDIR hang", check_mkdir, "a thread hangs, at work on MKDIR"},
    {"deed.executed hang", check_mkdir, "a thread hangs, at work on MKDIR"},
    {"refresher.turn hang", check_barrier, "a thread hangs, at work on refreshing views"},
    {"refresher.turn hang", check_change, "a thread hangs, at work on reading changes"},
    {"watcher.woken hang", check_change, "a thread hangs, at work on reading changes"},
    {"sweeper.round spin",
     check_silent_change,
     "a thread hangs, at work on looking at files",
     1,
     {"max_size=1M", "refresh=50"}},
    {"worker.watches hang", check_end, "did not answer any more"},
    {"request.STATFS stop", check_statfs, "did not answer any more"},
    {"worker.starts hang", check_start, "did not answer any more", 2},
};

struct Result {
    std::string wrong;
    std::chrono::milliseconds answered{0};
    std::chrono::milliseconds healed{0};
};

Result run_hang(const Hang& hang, const Scene& scene) {
    Result result;
    try {
        ask_for_fault(scene.mount, hang.fault);
        const auto begun = Clock::now();
        const auto time = [begun] {
            return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begun);
        };
        result.wrong = hang.ask(scene);
        result.answered = time();
        if (!scene.worker.ends(deadline)) return {"the worker goes on"};
        const bool counted = scene.replacements.are(hang.replacements);
        result.healed = time();
        if (!counted) result.wrong += " not so many replacements";
        if (!scene.shows_file()) result.wrong += " the view is not as the file";
    } catch (const std::exception& failure) {
        result.wrong = failure.what();
    }
    return result;
}

}  // namespace

TEST_SUITE_BEGIN("fault");

TEST_CASE("a server that hangs is replaced, and who waits for it is answered") {
    std::vector<std::unique_ptr<Scene>> scenes;
    for (const Hang& hang : hangs) {
        scenes.push_back(std::make_unique<Scene>(hang.options));
        // But for a load, the pages are there.
        if (hang.ask != check_load && hang.ask != check_start) CHECK(scenes.back()->shows_file());
    }
    std::vector<Result> results(hangs.size());
    {
        std::vector<std::thread> threads;
        for (std::size_t i = 0; i < hangs.size(); ++i)
            threads.emplace_back([&, i] { results[i] = run_hang(hangs[i], *scenes[i]); });
        for (std::thread& thread : threads) thread.join();
    }
    for (std::size_t i = 0; i < hangs.size(); ++i) {
        const auto& [fault, ask, logged, replacements, options] = hangs[i];
        CAPTURE(hangs[i].fault);
        MESSAGE(fault, ": answered after ", results[i].answered.count(), " ms, healed after ",
                results[i].healed.count(), " ms");
        CHECK_MESSAGE(results[i].wrong == "", scenes[i]->mount.errors());
        CHECK(results[i].answered < deadline);
        CHECK(results[i].healed < deadline);
        CHECK_MESSAGE(count_of(scenes[i]->mount.errors(), logged) == 1, scenes[i]->mount.errors());
    }
}

TEST_SUITE_END();
