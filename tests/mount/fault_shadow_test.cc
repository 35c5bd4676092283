// Views that have a shadow, when the server dies as it makes one, changes it or lets it go.
#include <doctest/doctest.h>
#include <unistd.h>

#include <optional>
#include <string>

#include "tests/mount/counters.h"
#include "tests/mount/faults.h"
#include "tests/mount/files.h"
#include "tests/mount/kernel.h"
#include "tests/mount/loading.h"
#include "tests/mount/mapping.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr std::size_t length = 5 * MiB;

// Dies at `point` while act() is done, which is to come to its end all the same.
template <typename Act>
void dies(const ViewMount& mount, const std::string& point, Act act) {
    CAPTURE(point);
    const GrowsUp grows_up;
    const Replacements replacements(mount);
    const Worker worker(mount);
    ask_for_fault(mount, point + " die");
    act();
    CHECK_MESSAGE(worker.ends(), "no worker came by this place");
    CHECK_MESSAGE(replacements.are(1), replacements.log());
}

}  // namespace

TEST_SUITE_BEGIN("fault");

TEST_CASE("an open is answered with a whole shadow when the server dies as it makes one") {
    if (!kernel_passes_through("shadows")) return;
    const ViewMount mount({"max_size=8M", "engine=auto"});
    const UniqueFd raw = make_file(mount.raw("file"), pattern(0, length));
    for (const char* const point : {"shadow.made", "shadow.backed", "shadow.noted", "shadow.copy"}) {
        std::optional<UniqueFd> view;
        dies(mount, point, [&] { view = open_file(mount.view("file"), O_RDONLY); });
        CAPTURE(point);
        const Mapping mapping(view->get(), 8 * MiB);
        CHECK(difference(mapping.bytes(), padded(pattern(0, length), 8 * MiB)) == "");
        CHECK(stats(mount.mountpoint()).at("shadows") == 1);
        view.reset();
        // The mapping goes on alone, and the shadow with it.
        write_at(raw.get(), 100, "changed");
        CHECK(eventually([&] { return mapping.bytes(100, 7) == "changed"; }));
        write_at(raw.get(), 100, pattern(100, 7));
        CHECK(eventually([&] { return mapping.bytes(100, 7) == pattern(100, 7); }));
        const_cast<Mapping&>(mapping).unmap();  // NOLINT(*-const-cast)
        CHECK(eventually([&] { return stats(mount.mountpoint()).at("shadows") == 0; }));
    }
}

TEST_CASE("a shadow shows what happens to its file when the server dies over it") {
    if (!kernel_passes_through("shadows")) return;
    const ViewMount mount({"max_size=8M", "engine=auto"});
    const UniqueFd raw = make_file(mount.raw("file"), pattern(0, length));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(view.get(), 8 * MiB);
    const Loading loading{mapping};
    const auto shows_file = [&] { return mapping.bytes() == padded(read_all(raw.get()), 8 * MiB); };
    for (const char* const point : {"watcher.woken", "watcher.told", "refresher.turn", "shadow.copy"}) {
        dies(mount, point, [&] { write_at(raw.get(), 3 * MiB, std::string("by itself at ") + point); });
        CHECK(eventually(shows_file));
        dies(mount, point, [&] {
            resize(raw.get(), 4 * MiB);
            write_at(raw.get(), 4 * MiB + 100, std::string("at the barrier ") + point);
            CHECK(answer(::fsync(view.get())) == "0");
            CHECK(shows_file());
        });
    }
    for (const char* const point : {"view.grows", "view.grown", "refresher.grown"}) {
        resize(raw.get(), length);
        CHECK(answer(::fsync(view.get())) == "0");
        const std::size_t end = size_of(mount.view("file"));
        dies(mount, point, [&] {
            resize(raw.get(), end + page);
            CHECK(answer(::fsync(view.get())) == "0");
            const Mapping behind(view.get(), page, PROT_READ, MAP_SHARED, end);
            CHECK(behind.byte(0) == 0);
        });
    }
    CHECK(loading.goes_round());
    CHECK(loading.faults() == 0);
}

TEST_CASE("nothing is left of a shadow when the server dies as it lets it go") {
    if (!kernel_passes_through("shadows")) return;
    const ViewMount mount({"max_size=8M", "engine=auto"});
    make_file(mount.raw("file"), pattern(0, length));
    for (const char* const point : {"shadow.emptied", "shadow.forgotten"}) {
        std::optional<UniqueFd> view = open_file(mount.view("file"), O_RDONLY);
        dies(mount, point, [&] { view.reset(); });
        CHECK(eventually([&] { return stats(mount.mountpoint()).at("shadows") == 0; }));
        CHECK(stats(mount.mountpoint()).at("shadow_memory") == 0);
        view = open_file(mount.view("file"), O_RDONLY);
        CHECK(engine_of(mount.view("file")) == "shadow: opened_for_reading");
        CHECK(difference(Mapping(view->get(), length).bytes(), pattern(0, length)) == "");
        view.reset();
        CHECK(eventually([&] { return stats(mount.mountpoint()).at("shadows") == 0; }));
    }
}

TEST_CASE("who opens a view whose shadow is just going has another engine, also when the worker dies then") {
    if (!kernel_passes_through("shadows")) return;
    for (const char* const point : {"shadow.left", "shadow.emptied", "shadow.forgotten"}) {
        CAPTURE(point);
        const ViewMount mount({"max_size=4M", "engine=auto", "shadow_max=1M"});
        const UniqueFd raw = make_file(mount.raw("file"), pattern(0, 10 * page));
        std::optional<UniqueFd> view = open_file(mount.view("file"), O_RDONLY);
        const Worker worker(mount);
        ask_for_fault(mount, std::string(point) + " hang");
        view.reset();
        CHECK(eventually([&] { return worker.hangs(); }));
        // Too large for a shadow by now, and for writing.
        write_at(raw.get(), 0, pattern(0, 2 * MiB));
        const UniqueFd reader = open_file(mount.view("file"), O_RDONLY);
        const Mapping mapping(reader.get(), 4 * MiB);
        const UniqueFd writer = open_file(mount.view("file"), O_RDWR);
        const Mapping writing(writer.get(), 4 * MiB, PROT_READ | PROT_WRITE);
        CHECK(writing.store(0, "stored") == 6);
        worker.kill();
        CHECK(worker.ends());
        CHECK(difference(mapping.bytes(), padded("stored" + pattern(6, 2 * MiB - 6), 4 * MiB)) == "");
        CHECK(difference(writing.bytes(), padded("stored" + pattern(6, 2 * MiB - 6), 4 * MiB)) == "");
        CHECK(answer(::fsync(writer.get())) == "0");
        CHECK(read_all(raw.get()).substr(0, 6) == "stored");
        CHECK(restarts(mount) == 1);
        CHECK(eventually([&] { return stats(mount.mountpoint()).at("shadows") == 0; }));
        CHECK(stats(mount.mountpoint()).at("shadow_memory") == 0);
    }
}

TEST_CASE("where there is no memory for a shadow the view is opened without, and nothing is left of it") {
    if (!kernel_passes_through("shadows")) return;
    const ViewMount mount({"max_size=8M", "engine=auto"});
    make_file(mount.raw("file"), pattern(0, length));
    for (const char* const point : {"shadow.made", "shadow.backed", "shadow.adding"}) {
        CAPTURE(point);
        ask_for_fault(mount, std::string(point) + " nomem");
        std::optional<UniqueFd> view = open_file(mount.view("file"), O_RDONLY);
        CHECK(engine_of(mount.view("file")) == "cache: no_memory_or_descriptor");
        CHECK(difference(Mapping(view->get(), 8 * MiB).bytes(), padded(pattern(0, length), 8 * MiB)) == "");
        CHECK(stats(mount.mountpoint()).at("shadows") == 0);
        CHECK(stats(mount.mountpoint()).at("shadow_memory") == 0);
        view.reset();
        view = open_file(mount.view("file"), O_RDONLY);
        CHECK(engine_of(mount.view("file")) == "shadow: opened_for_reading");
        view.reset();
        CHECK(eventually([&] { return stats(mount.mountpoint()).at("shadows") == 0; }));
    }
    CHECK(restarts(mount) == 0);
}

TEST_CASE("a successor that has no memory takes nothing away from who has a shadow mapped") {
    if (!kernel_passes_through("shadows")) return;
    const ViewMount mount({"max_size=8M", "engine=auto"});
    const UniqueFd raw = make_file(mount.raw("file"), pattern(0, length));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(view.get(), 8 * MiB);
    const Loading loading{mapping};
    const GrowsUp grows_up;
    const Replacements replacements(mount);
    const Worker worker(mount);
    ask_for_fault(mount, "shadow.adding nomem");
    worker.kill();
    CHECK(worker.ends());
    write_at(raw.get(), 100, "changed");
    CHECK(eventually([&] { return mapping.bytes(100, 7) == "changed"; }));
    CHECK(difference(mapping.bytes(), padded(read_all(raw.get()), 8 * MiB)) == "");
    CHECK(stats(mount.mountpoint()).at("shadows") == 1);
    CHECK_MESSAGE(replacements.are(2), replacements.log());
    CHECK(loading.goes_round());
    CHECK(loading.faults() == 0);
}

TEST_CASE("what one view has written shows in the shadow of another when write(2) returns, also without memory") {
    if (!kernel_passes_through("shadows")) return;
    const ViewMount mount({"max_size=8M", "engine=auto"});
    make_file(mount.raw("file"), pattern(0, length));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(view.get(), 8 * MiB);
    const UniqueFd writer = open_file(mount.view("file"), O_WRONLY);
    ask_for_fault(mount, "views.others nomem");
    write_at(writer.get(), MiB, "written");
    CHECK(mapping.bytes(MiB, 7) == "written");
    ask_for_fault(mount, "views.others nomem");
    write_at(writer.get(), length, "appended");
    CHECK(mapping.bytes(length, 8) == "appended");
    CHECK(restarts(mount) == 0);
}

TEST_SUITE_END();
