// Whatever a client is doing when its server dies, it notices nothing: at each place of each operation.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "tests/mount/fault_operations.h"
#include "tests/mount/faults.h"
#include "tests/mount/files.h"
#include "tests/mount/parity.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

// What an operation came to: for who asked, in the source, and in the mount.
struct Outcome {
    std::string said;
    std::string raw;
    std::string view;
};

class Cases {
  public:
    // Runs it as often as it has points, each time with another death, and once without.
    void check(const Operation& operation) {
        CAPTURE(operation.name);
        const Outcome wanted = undisturbed(operation);
        for (const std::string& point : operation.points) check_at(operation, point, wanted);
    }

    [[nodiscard]] unsigned count() const { return count_; }

  private:
    std::string next_name() { return fmt::format("case {}", ++count_); }

    static Outcome outcome(const Place& place, std::string said) {
        return {std::move(said), tree(place.raw), tree(place.view)};
    }

    Outcome undisturbed(const Operation& operation) {
        Place here(mount_, next_name());
        operation.prepare(here);
        std::string said = operation.act(here);
        return outcome(here, std::move(said));
    }

    void check_at(const Operation& operation, const std::string& point, const Outcome& wanted) {
        CAPTURE(point);
        std::optional<Place> place(std::in_place, mount_, next_name());
        Place& here = *place;
        const std::string raw = here.raw;
        const std::string view = here.view;
        operation.prepare(here);
        const GrowsUp grows_up;
        const Replacements replacements(mount_);
        const Worker worker(mount_);
        const std::size_t passes = point.find(' ');
        ask_for_fault(mount_, point.substr(0, passes) + " die" +
                                  (passes == std::string::npos ? std::string() : point.substr(passes)));
        std::string said = operation.act(here);
        // What asks the mount afterwards could come by the same place.
        const bool was_passed = worker.ends(std::chrono::seconds(3));
        CHECK_MESSAGE(was_passed, "the operation does not come by this place");
        if (!was_passed) ask_for_fault(mount_, "none die");
        const Outcome got = outcome(here, std::move(said));
        CHECK(difference(got.said, wanted.said) == "");
        CHECK(got.raw == wanted.raw);
        CHECK(got.view == wanted.view);
        CHECK_MESSAGE(replacements.are(1), replacements.log());
        place.reset();
        check_all_goes(point, raw, view);
    }

    // What is removed through the mount, the daemon keeps nothing of.
    void check_all_goes(const std::string& point, const std::string& raw, const std::string& view) const {
        set_immutable(raw, false);
        std::filesystem::remove_all(view);
        // By design a worker that dies there leaves a node too many.
        if (point.starts_with("lookup.counted") || point == "forget") return;
        CHECK_MESSAGE(eventually([&] { return held(raw).empty(); }), "the daemon has ", held(raw));
    }

    // The descriptors that the daemon has of what was at `path`, or below, and what for.
    [[nodiscard]] std::string held(const std::string& path) const {
        const std::filesystem::path process = fmt::format("/proc/{}", mount_.pid());
        std::string all;
        for (const auto& entry : std::filesystem::directory_iterator(process / "fd")) {
            std::error_code closed;
            const std::string name = std::filesystem::read_symlink(entry.path(), closed).string();
            if (!name.starts_with(path + "/") && !name.starts_with(path + " ")) continue;
            all += name;
            std::ifstream info(process / "fdinfo" / entry.path().filename());
            for (std::string word; info >> word;) all += " " + word;
            all += "\n";
        }
        return all;
    }

    const ViewMount mount_{{"max_size=1M", "engine=cache"}};
    unsigned count_ = 0;
};

void check_all(const std::vector<Operation>& operations) {
    Cases cases;
    for (const Operation& operation : operations) cases.check(operation);
    MESSAGE(cases.count(), " times something was done");
}

}  // namespace

TEST_SUITE_BEGIN("fault");

TEST_CASE("a client that works on names does not notice that its server dies") {
    check_all(operations_on_names());
}

TEST_CASE("a client that works on files does not notice that its server dies") {
    check_all(operations_on_files());
}

TEST_SUITE_END();
