#include <doctest/doctest.h>

#include <array>
#include <string>

#include "tests/session/fake_kernel.h"
#include "tests/unit/source.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

// A view that is being pushed to: the test plays the refresher.
struct House {
    FakeKernel kernel;
    UniqueFd file = make_file(kernel.source().file("a"), "hello");
    std::uint64_t node = kernel.look_up("a").nodeid;
    std::uint64_t handle = kernel.open(node, O_RDONLY);
    View& view = kernel.fs().nodes().get(node)->view();

    House() { REQUIRE(view.begin_push()); }
    ~House() {
        if (pushing) view.end_push();
    }
    House(const House&) = delete;
    House& operator=(const House&) = delete;

    void end_push() {
        pushing = false;
        view.end_push();
    }
    // Others are answered meanwhile. No READ among them: of a view that the kernel has no page of, the real refresher
    // pushes nothing, and so ends no push.
    void check_others() {
        CHECK(kernel.call(FUSE_GETATTR, node, body(fuse_getattr_in{})).error == 0);
        CHECK(kernel.look_up("a").nodeid == node);
    }
    bool pushing = true;
};

}  // namespace

TEST_CASE("an open is answered when the push has ended, since with it the kernel drops what was pushed") {
    for (const int flags : {O_RDONLY, O_RDWR}) {
        CAPTURE(flags);
        House house;
        fuse_open_in in{};
        in.flags = static_cast<std::uint32_t>(flags);
        const std::uint64_t opening = house.kernel.send(FUSE_OPEN, house.node, body(in));
        // It has got as far as to count as a writer.
        if (flags == O_RDWR) REQUIRE(comes_true([&] { return house.view.has_writers(); }));
        for (int i = 0; i < 20; ++i) house.check_others();
        CHECK_FALSE(house.kernel.is_answered(opening));
        house.end_push();
        const Answer answer = house.kernel.wait_for(opening);
        CHECK(answer.error == 0);
        CHECK(house.kernel.read_page(house.node, answer.as<fuse_open_out>().fh, 0, 4096).bytes.starts_with("hello"));
        // Whether there may be another push is known from then on.
        CHECK(house.view.begin_push() == (flags == O_RDONLY));
        if (flags == O_RDONLY) house.view.end_push();
    }
}

TEST_CASE("a truncation is done at once and answered when the push has ended, which may have stored what was cut") {
    House house;
    fuse_setattr_in in{};
    in.valid = FATTR_SIZE;
    in.size = 3;
    const std::uint64_t truncating = house.kernel.send(FUSE_SETATTR, house.node, body(in));
    REQUIRE(comes_true([&] { return sys::file_size(house.file.get()) == 3; }));
    for (int i = 0; i < 20; ++i) house.check_others();
    CHECK_FALSE(house.kernel.is_answered(truncating));
    house.end_push();
    CHECK(house.kernel.wait_for(truncating).error == 0);
    CHECK(content_of(house.file.get()) == "hel");
}

TEST_CASE("a page is read while its view is pushed to: the push may wait for that") {
    House house;
    const Answer page = house.kernel.read_page(house.node, house.handle, 0, 8192);
    CHECK(page.error == 0);
    CHECK(page.bytes.size() == 8192);
    CHECK(page.bytes.starts_with("hello"));
}

TEST_CASE("a truncation that fails says so at once") {
    House house;
    fuse_setattr_in in{};
    in.valid = FATTR_SIZE;
    in.size = std::uint64_t{1} << 63;
    CHECK(house.kernel.call(FUSE_SETATTR, house.node, body(in)).error != 0);
}

TEST_CASE("all who waited for one push are answered, each once") {
    House house;
    std::array<std::uint64_t, 30> waiting{};
    for (std::size_t i = 0; i < waiting.size(); ++i) {
        fuse_setattr_in in{};
        in.valid = FATTR_SIZE;
        in.size = i;
        waiting[i] = i % 2 == 0 ? house.kernel.send(FUSE_OPEN, house.node, body(fuse_open_in{}))
                                : house.kernel.send(FUSE_SETATTR, house.node, body(in));
    }
    for (int i = 0; i < 20; ++i) house.check_others();
    house.end_push();
    for (const std::uint64_t unique : waiting) CHECK(house.kernel.wait_for(unique).error == 0);
}

TEST_CASE("files that nothing is pushed to are opened, created and truncated meanwhile") {
    House house;
    make_file(house.kernel.source().file("other"), "hello");
    const std::uint64_t other = house.kernel.look_up("other").nodeid;
    house.kernel.open(other, O_RDWR);
    fuse_setattr_in in{};
    in.valid = FATTR_SIZE;
    CHECK(house.kernel.call(FUSE_SETATTR, other, body(in)).error == 0);
    fuse_create_in create{};
    create.mode = S_IFREG | 0644;
    create.flags = O_CREAT | O_RDWR;
    CHECK(house.kernel.call(FUSE_CREATE, FUSE_ROOT_ID, body(create) + name_of("new")).error == 0);
}
