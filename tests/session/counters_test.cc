#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cerrno>
#include <initializer_list>
#include <map>
#include <sstream>
#include <string>

#include "tests/session/fake_kernel.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

Answer get(FakeKernel& kernel, std::uint64_t node, const std::string& name, std::uint32_t size) {
    fuse_getxattr_in in{};
    in.size = size;
    return kernel.call(FUSE_GETXATTR, node, body(in) + name_of(name));
}

std::map<std::string, std::uint64_t> counters_of(FakeKernel& kernel, std::uint64_t node) {
    std::istringstream text(get(kernel, node, "user.nosigbus.counters", 65536).bytes);
    std::map<std::string, std::uint64_t> result;
    std::string line;
    while (std::getline(text, line)) {
        const std::size_t space = line.find(' ');
        REQUIRE(space != std::string::npos);
        CHECK(result.emplace(line.substr(0, space), std::stoull(line.substr(space + 1))).second);
    }
    return result;
}

}  // namespace

TEST_CASE("the counters are listed by name, on every file, every directory and the root") {
    FakeKernel kernel;
    make_file(kernel.source().file("a"), "hello");
    std::filesystem::create_directory(kernel.source().file("d"));
    for (const std::uint64_t node :
         {std::uint64_t{FUSE_ROOT_ID}, kernel.look_up("a").nodeid, kernel.look_up("d").nodeid}) {
        const auto counters = counters_of(kernel, node);
        CHECK(counters.size() == sizeof(Counters) / sizeof(Counters::Count));
        for (const char* name : {"faults_averted", "bytes_zeroed", "changes", "refreshes", "pages_compared",
                                 "pages_pushed", "pages_dropped", "whole_drops", "barriers", "held_back", "events",
                                 "event_overflows", "unwatched_opens", "sweep_refreshes", "read_errors"}) {
            CAPTURE(name);
            CHECK(counters.contains(name));
        }
    }
}

TEST_CASE("the counters are an attribute like others: its size can be asked, it is not listed and cannot be set") {
    FakeKernel kernel;
    const std::string name = "user.nosigbus.counters";
    const Answer value = get(kernel, FUSE_ROOT_ID, name, 65536);
    CHECK(value.error == 0);
    CHECK(get(kernel, FUSE_ROOT_ID, name, 0).as<fuse_getxattr_out>().size >= 12 * 4);
    CHECK(get(kernel, FUSE_ROOT_ID, name, 3).error == ERANGE);
    CHECK(get(kernel, FUSE_ROOT_ID, "user.nosigbus.counter", 4096).error == ENODATA);
    CHECK(get(kernel, FUSE_ROOT_ID, "user.nosigbus.real_size", 4096).error == ENODATA);
    fuse_getxattr_in list{};
    list.size = 4096;
    CHECK(kernel.call(FUSE_LISTXATTR, FUSE_ROOT_ID, body(list)).bytes.find("nosigbus") == std::string::npos);
    // struct fuse_setxattr_in as it is without FUSE_SETXATTR_EXT.
    const std::array<std::uint32_t, 2> set{1, 0};
    CHECK(kernel.call(FUSE_SETXATTR, FUSE_ROOT_ID, body(set) + name_of(name) + "7").error == EPERM);
    CHECK(kernel.call(FUSE_REMOVEXATTR, FUSE_ROOT_ID, name_of(name)).error == EPERM);
}

TEST_CASE("what happens is counted") {
    FakeKernel kernel;
    const UniqueFd file = make_file(kernel.source().file("a"), "hello");
    const std::uint64_t node = kernel.look_up("a").nodeid;
    const std::uint64_t handle = kernel.open(node, O_RDONLY);
    auto before = counters_of(kernel, FUSE_ROOT_ID);
    for (const auto& each : before) {
        CAPTURE(each.first);
        CHECK(each.second == 0);
    }
    REQUIRE(kernel.read_page(node, handle, 0, 4096).error == 0);
    REQUIRE(kernel.fsync(node, handle) == 0);
    auto now = counters_of(kernel, FUSE_ROOT_ID);
    CHECK(now["barriers"] == 1);
    CHECK(now["refreshes"] == 1);
    CHECK(now["pages_compared"] == 1);
    CHECK(now["pages_pushed"] + now["pages_dropped"] == 0);
    REQUIRE(::pwrite(file.get(), "J", 1, 0) == 1);
    REQUIRE(kernel.fsync(node, handle) == 0);
    now = counters_of(kernel, FUSE_ROOT_ID);
    CHECK(now["barriers"] == 2);
    CHECK(now["pages_pushed"] + now["pages_dropped"] == 1);
    // Last: what the kernel has of that page is unknown from here on, and the event of the write may come as late as
    // now.
    kernel.read_page(node, handle + 1, 0, 4096);
    now = counters_of(kernel, FUSE_ROOT_ID);
    CHECK(now["read_errors"] == 1);
    CHECK(now["whole_drops"] == 0);
}

TEST_CASE("what is worth telling is JSON: the mount's on every directory, a view's on its file") {
    FakeKernel kernel;
    make_file(kernel.source().file("a"), "hello");
    std::filesystem::create_directory(kernel.source().file("d"));
    const auto stats = [&](std::uint64_t node) { return get(kernel, node, "user.nosigbus.stats", 65536).bytes; };
    const std::string none =
        R"("faults_averted":0,"bytes_zeroed":0,"changes":0,"refreshes":0,"drops":0,"pushes":0,"barriers":0,"errors":0)";
    CHECK(stats(FUSE_ROOT_ID) ==
          fmt::format(R"({{"engine":"auto","shadows":0,"shadow_memory":0,"shadow_memory_allowed":{},{},"restarts":0}})",
                      Options{}.shadow_memory, none));
    CHECK(stats(kernel.look_up("d").nodeid) == stats(FUSE_ROOT_ID));
    const std::uint64_t node = kernel.look_up("a").nodeid;
    const auto of_view = [&](const char* why) {
        return fmt::format(
            R"({{"real_size":5,"view_size":{},"engine":"cache","engine_reason":"{}","shadow_memory":0,{}}})",
            kernel.look_up("a").attr.size, why, none);
    };
    CHECK(stats(node) == of_view("not_open"));
    const std::uint64_t handle = kernel.open(node, O_RDONLY);
    CHECK(stats(node) == of_view("no_passthrough"));
    fuse_release_in release{};
    release.fh = handle;
    CHECK(kernel.call(FUSE_RELEASE, node, body(release)).error == 0);
    kernel.open(node, O_RDWR);
    CHECK(stats(node) == of_view("opened_for_writing"));
}

TEST_CASE("a view counts for itself, and the mount for all: loads past the end, zeros, changes, barriers and errors") {
    FakeKernel kernel;
    const UniqueFd file = make_file(kernel.source().file("a"), std::string(3 * 4096, 'x'));
    make_file(kernel.source().file("b"), "hello");
    const std::uint64_t node = kernel.look_up("a").nodeid;
    const std::uint64_t other = kernel.look_up("b").nodeid;
    const std::uint64_t handle = kernel.open(node, O_RDONLY);
    const std::uint64_t other_handle = kernel.open(other, O_RDONLY);
    const auto has = [&](std::uint64_t of, const std::string& count) {
        const std::string text = get(kernel, of, "user.nosigbus.stats", 65536).bytes;
        return text.find(count + ",") != std::string::npos || text.find(count + "}") != std::string::npos;
    };
    // Within the file, across its end, and behind it.
    kernel.read_page(node, handle, 0, 2 * 4096);
    CHECK(has(node, R"("bytes_zeroed":0)"));
    kernel.read_page(node, handle, 2 * 4096, 2 * 4096);
    CHECK(has(node, R"("bytes_zeroed":4096)"));
    CHECK(has(node, R"("faults_averted":0)"));
    kernel.read_page(node, handle, 8 * 4096, 4096);
    CHECK(has(node, R"("bytes_zeroed":8192)"));
    CHECK(has(node, R"("faults_averted":1)"));
    kernel.read_page(other, other_handle, 4096, 4096);
    CHECK(has(other, R"("faults_averted":1)"));
    CHECK(has(other, R"("bytes_zeroed":4096)"));
    CHECK(has(FUSE_ROOT_ID, R"("faults_averted":2)"));
    CHECK(has(FUSE_ROOT_ID, R"("bytes_zeroed":12288)"));
    // Two pages that the kernel has are past the end now, and half of one.
    REQUIRE(::ftruncate(file.get(), 2048) == 0);
    REQUIRE(kernel.fsync(node, handle) == 0);
    CHECK(has(node, R"("barriers":1)"));
    CHECK(has(node, R"("pushes":3)"));
    CHECK(has(node, R"("faults_averted":3)"));
    CHECK(has(node, R"("bytes_zeroed":18432)"));
    for (const char* none : {R"("barriers":0)", R"("pushes":0)", R"("changes":0)", R"("refreshes":0)"}) {
        CAPTURE(none);
        CHECK(has(other, none));
    }
    CHECK(has(FUSE_ROOT_ID, R"("barriers":1)"));
    CHECK(has(FUSE_ROOT_ID, R"("pushes":3)"));
}
