// Views whose files change keep up when the server dies over it.
#include <doctest/doctest.h>
#include <unistd.h>

#include <string>

#include "tests/mount/faults.h"
#include "tests/mount/files.h"
#include "tests/mount/loading.h"
#include "tests/mount/mapping.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

const std::size_t small = 8 * page;
constexpr std::size_t large = 5 * MiB;

// A change of the file behind the view's back, and the places that the server comes by for it.
struct Change {
    std::string name;
    void (*make)(int raw);
    std::vector<std::string> points;
    std::size_t size = small;  // of the file before
};

const std::vector<Change> loud_changes = {
    {"a write",
     [](int raw) { write_at(raw, 3 * page - 10, pattern(0, page, 1)); },
     {"watcher.woken", "watcher.told", "refresher.turn", "refresher.push"}},
    {"a truncation", [](int raw) { resize(raw, page + 5); }, {"watcher.woken", "refresher.turn", "refresher.push"}},
    {"a large truncation", [](int raw) { resize(raw, page + 5); }, {"refresher.drop"}, large},
    {"growth beyond the view's end",
     [](int raw) {
         resize(raw, 10 * MiB);
         write_at(raw, 0, "grown");
     },
     {"watcher.woken", "view.grows", "view.grown", "refresher.grown"}},
};

// That no event tells of.
const Change silent_change = {
    "a store",
    [](int raw) { CHECK(Mapping(raw, 3 * page, PROT_READ | PROT_WRITE).store(2 * page + 9, "stored") == 6); },
    {"refresher.turn", "refresher.push", "sweeper.round"}};

// A file and a reader of its view, which is loaded from all the time.
struct Reader {
    Reader(const ViewMount& mount, const std::string& name, std::size_t size, int flags)
        : raw(make_file(mount.raw(name), pattern(0, size))),
          view(open_file(mount.view(name), flags)),
          mapping(view.get(), size + 2 * page) {}

    [[nodiscard]] bool shows_file() const { return mapping.bytes() == padded(read_all(raw.get()), mapping.size()); }

    const UniqueFd raw;
    const UniqueFd view;
    const Mapping mapping;
    const Loading loading{mapping};
};

// Makes the change, and the worker dies at `point` of it. Then wait(reader) is to return when the view shows it.
template <typename Wait>
void check_change(const ViewMount& mount, const Change& change, const std::string& point, int flags, Wait wait) {
    static unsigned count = 0;
    CAPTURE(change.name);
    CAPTURE(point);
    const Reader reader(mount, "file " + std::to_string(++count), change.size, flags);
    CHECK(reader.shows_file());
    // What the view shows is known from now on.
    CHECK(answer(::fsync(reader.view.get())) == "0");
    const GrowsUp grows_up;
    const Replacements replacements(mount);
    const Worker worker(mount);
    ask_for_fault(mount, point + " die");
    change.make(reader.raw.get());
    wait(reader);
    CHECK(reader.shows_file());
    CHECK_MESSAGE(worker.ends(), "no worker came by this place");
    CHECK_MESSAGE(replacements.are(1), replacements.log());
    CHECK(eventually([&] { return reader.shows_file(); }));
    CHECK(reader.loading.goes_round());
    CHECK(reader.loading.faults() == 0);
}

void wait_until_it_shows(const Reader& reader) {
    CHECK(eventually([&] { return reader.shows_file(); }));
}

void wait_for_barrier(const Reader& reader) {
    CHECK(answer(::fsync(reader.view.get())) == "0");
}

}  // namespace

TEST_SUITE_BEGIN("fault");

TEST_CASE("a view shows a change by itself when the server dies over it") {
    const ViewMount mount({"max_size=8M", "engine=cache"});
    for (const Change& change : loud_changes) {
        for (const std::string& point : change.points)
            check_change(mount, change, point, O_RDONLY, wait_until_it_shows);
    }
    // Where somebody has it open for writing, pages are dropped and not pushed.
    check_change(mount, loud_changes[0], "refresher.drop", O_RDWR, wait_until_it_shows);
}

TEST_CASE("a view shows a change at the barrier when the server dies over it") {
    const ViewMount mount({"max_size=8M", "engine=cache"});
    for (const Change& change : loud_changes) {
        for (const std::string& point : change.points) check_change(mount, change, point, O_RDONLY, wait_for_barrier);
    }
    for (const std::string& point : silent_change.points)
        check_change(mount, silent_change, point, O_RDONLY, wait_for_barrier);
    check_change(mount, silent_change, "refresher.drop", O_RDWR, wait_for_barrier);
}

TEST_CASE("a view that is refreshed by the clock shows a store in the file when the server dies over it") {
    const ViewMount mount({"max_size=8M", "refresh=50", "engine=cache"});
    for (const std::string& point : silent_change.points)
        check_change(mount, silent_change, point, O_RDONLY, wait_until_it_shows);
}

TEST_SUITE_END();
