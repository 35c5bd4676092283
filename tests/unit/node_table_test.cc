#include "lib/node_table.h"

#include <doctest/doctest.h>

#include <fcntl.h>
#include <sys/resource.h>
#include <initializer_list>

#include <cerrno>
#include <filesystem>
#include <optional>
#include <system_error>

#include "tests/unit/temporary.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr off_t M = 1 << 20;

struct Table {
    TemporaryDirectory directory;
    SharedState state;
    NodeTable nodes{state, sys::open_at(AT_FDCWD, directory.path().c_str(), O_PATH | O_DIRECTORY), M};

    Lookup look_up(const std::string& name) {
        UniqueFd path = sys::open_at(AT_FDCWD, directory.file(name).c_str(), O_PATH | O_NOFOLLOW);
        const auto attributes = sys::stat_fd(path.get(), STATX_BASIC_STATS | STATX_MNT_ID);
        return nodes.look_up(path, attributes);
    }
};

int error_of(NodeTable& nodes, NodeId id) {
    try {
        nodes.get(id);
    } catch (const std::system_error& failure) {
        return failure.code().value();
    }
    return 0;
}

// Looks up as the kernel does: keeps the lookup.
NodeId known(Table& table, const std::string& name) {
    Lookup lookup = table.look_up(name);
    const NodeId id = lookup.node()->id();
    lookup.keep();
    return id;
}

std::size_t open_descriptors() {
    std::size_t count = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
    return count;
}

}  // namespace

TEST_CASE("the root is node 1 and is never forgotten") {
    Table table;
    table.nodes.forget(1, ~std::uint64_t{0});
    CHECK(table.nodes.get(1)->id() == 1);
}

TEST_CASE("hard links share a node, other files do not") {
    Table table;
    make_file(table.directory.file("a"));
    make_file(table.directory.file("b"));
    std::filesystem::create_hard_link(table.directory.file("a"), table.directory.file("c"));
    CHECK(known(table, "a") == known(table, "c"));
    CHECK(known(table, "a") != known(table, "b"));
}

TEST_CASE("a node goes with the last lookup, and its id is stale for good") {
    Table table;
    make_file(table.directory.file("a"));
    const std::size_t before = open_descriptors();
    const NodeId id = known(table, "a");
    CHECK(known(table, "a") == id);
    table.nodes.forget(id, 1);
    CHECK(error_of(table.nodes, id) == 0);
    table.nodes.forget(id, 1);
    CHECK(error_of(table.nodes, id) == ESTALE);
    CHECK(open_descriptors() == before);
    CHECK(known(table, "a") != id);
    CHECK(error_of(table.nodes, id) == ESTALE);
}

TEST_CASE("a lookup that is not kept leaves no trace") {
    Table table;
    make_file(table.directory.file("a"));
    NodeId id = 0;
    {
        const Lookup lookup = table.look_up("a");
        id = lookup.node()->id();
        CHECK(error_of(table.nodes, id) == 0);
    }
    CHECK(error_of(table.nodes, id) == ESTALE);
}

TEST_CASE("ids that are not in use are refused, whatever they look like") {
    Table table;
    for (const NodeId id : {NodeId{0}, NodeId{2}, NodeId{1} << slot_bits, ~NodeId{0}, slot_mask}) {
        CAPTURE(id);
        CHECK(error_of(table.nodes, id) == ESTALE);
        table.nodes.forget(id, 1);
    }
}

TEST_CASE("forgetting more than was looked up is not an underflow") {
    Table table;
    make_file(table.directory.file("a"));
    const NodeId id = known(table, "a");
    table.nodes.forget(id, ~std::uint64_t{0});
    CHECK(error_of(table.nodes, id) == ESTALE);
}

TEST_CASE("a view starts at the size its file asks for and then only grows") {
    Table table;
    const UniqueFd file = make_file(table.directory.file("a"));
    REQUIRE(::ftruncate(file.get(), 3 * M + 1) == 0);
    const Lookup lookup = table.look_up("a");
    Node& node = *lookup.node();
    CHECK(node.view_size() == 4 * M);
    CHECK_FALSE(node.outgrown());
    CHECK(node.is_known_to_kernel());
    node.grow_view(2 * M);
    CHECK(node.view_size() == 4 * M);
    CHECK_FALSE(node.outgrown());
    node.grow_view(5 * M);
    CHECK(node.view_size() == 5 * M);
    CHECK(node.outgrown());
    // Nobody may be told the new size before the kernel has been.
    CHECK_FALSE(node.is_known_to_kernel());
    node.told_kernel();
    CHECK(node.is_known_to_kernel());
    CHECK(node.next_unversioned_size() != node.next_unversioned_size());
}

TEST_CASE("a file whose node turns away has a twin, which others find until the first one is open no more") {
    Table table;
    make_file(table.directory.file("a"));
    const NodeId first = known(table, "a");
    const NodePtr node = table.nodes.get(first);
    CHECK(table.nodes.twin_of(*node) == nullptr);
    std::optional<OpenView> reader(std::in_place, node->view(), false, EngineChoice{Engine::shadow, "a_test"});
    CHECK(known(table, "a") == first);
    node->turn_away();
    const NodeId second = known(table, "a");
    CHECK(second != first);
    CHECK(known(table, "a") == second);
    const NodePtr twin = table.nodes.get(second);
    CHECK(table.nodes.twin_of(*node) == twin);
    CHECK(table.nodes.twin_of(*twin) == node);
    CHECK(twin->access().is_twin);
    {
        const OpenView writer(twin->view(), true);
        reader.reset();
        // Nobody is turned away now, but one of them is open: all have that.
        CHECK(known(table, "a") == second);
    }
    CHECK(known(table, "a") == first);
    // Whichever the kernel forgets, the other one is found.
    table.nodes.forget(first, 3);
    CHECK(error_of(table.nodes, first) == ESTALE);
    CHECK(known(table, "a") == second);
    // And when that turns away, it has a twin again.
    const OpenView another(twin->view(), false, EngineChoice{Engine::shadow, "a_test"});
    twin->turn_away();
    const NodeId third = known(table, "a");
    CHECK(third != second);
    CHECK_FALSE(table.nodes.get(third)->access().is_twin);
    // The shadow goes, and with it the reason.
    twin->forget_shadow();
    CHECK_FALSE(twin->turns_away());
}
