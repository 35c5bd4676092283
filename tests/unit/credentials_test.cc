#include "lib/credentials.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <optional>

#include "tests/unit/temporary.h"

using namespace nosigbus;
using namespace nosigbus::test;

TEST_CASE("what is created while acting as somebody is theirs, and ours again afterwards") {
    const TemporaryDirectory directory;
    REQUIRE(::chmod(directory.path().c_str(), 0777) == 0);
    constexpr uid_t nobody = 65534;
    std::optional<UniqueFd> theirs;
    {
        const ActAs as({.user = nobody, .group = nobody});
        theirs = make_file(directory.file("theirs"));
    }
    const UniqueFd ours = make_file(directory.file("ours"));
    struct stat attributes {};
    REQUIRE(::fstat(theirs->get(), &attributes) == 0);
    // An ordinary user's daemon can act as nobody else.
    CHECK(attributes.st_uid == (::geteuid() == 0 ? nobody : ::geteuid()));
    CHECK(attributes.st_gid == (::geteuid() == 0 ? nobody : ::getegid()));
    REQUIRE(::fstat(ours.get(), &attributes) == 0);
    CHECK(attributes.st_uid == ::geteuid());
    CHECK(attributes.st_gid == ::getegid());
}

TEST_CASE("while acting as somebody, only their files go from a sticky directory") {
    const TemporaryDirectory directory;
    REQUIRE(::chmod(directory.path().c_str(), 01777) == 0);
    constexpr uid_t nobody = 65534;
    make_file(directory.file("ours"));
    int result = 0;
    int error = 0;
    {
        const ActAs as({.user = nobody, .group = nobody});
        make_file(directory.file("theirs"));
        result = ::unlink(directory.file("ours").c_str());
        error = errno;
        CHECK(::unlink(directory.file("theirs").c_str()) == 0);
    }
    if (::geteuid() == 0) {
        CHECK(result == -1);
        CHECK(error == EPERM);
        CHECK(::unlink(directory.file("ours").c_str()) == 0);
    } else {
        CHECK(result == 0);  // they are we
    }
}
