#include "lib/credentials.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <algorithm>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/unit/temporary.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

mode_t mode_of(const std::string& path) {
    struct stat found {};
    REQUIRE(::stat(path.c_str(), &found) == 0);
    return found.st_mode & 07777;
}

}  // namespace

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

TEST_CASE("a thread that has a umask of its own applies the caller's, and leaves all others alone") {
    const TemporaryDirectory directory;
    const mode_t before = ::umask(0);
    std::thread([&] {
        REQUIRE(have_own_umask());
        {
            const ActAs as({.user = ::geteuid(), .group = ::getegid(), .umask = 077});
            REQUIRE(::mkdir(directory.file("theirs").c_str(), 0777) == 0);
        }
        REQUIRE(::mkdir(directory.file("ours").c_str(), 0777) == 0);
    }).join();
    CHECK(mode_of(directory.file("theirs")) == 0700);
    CHECK(mode_of(directory.file("ours")) == 0777);
    CHECK(::umask(before) == 0);
}

TEST_CASE("without a umask of its own a thread does not touch that of the process") {
    const TemporaryDirectory directory;
    const mode_t before = ::umask(0);
    {
        const ActAs as({.user = ::geteuid(), .group = ::getegid(), .umask = 077});
        REQUIRE(::mkdir(directory.file("theirs").c_str(), 0777) == 0);
    }
    CHECK(mode_of(directory.file("theirs")) == 0777);
    CHECK(::umask(before) == 0);
}

// The system call of 32-bit machines that has the same name takes groups of 16 bits.
TEST_CASE("while acting as somebody we are in their groups" * doctest::skip(::geteuid() != 0)) {
    const std::vector<gid_t> groups = {1, 65'533, 100'000};
    std::vector<gid_t> found(10);
    {
        const ActAs as({.user = 65534, .group = 65534, .groups = groups});
        found.resize(static_cast<std::size_t>(std::max(0, ::getgroups(static_cast<int>(found.size()), found.data()))));
    }
    CHECK(found == groups);
    CHECK(::getgroups(0, nullptr) == 0);
}

// An ordinary user has no such right anyway.
TEST_CASE("a change of mode keeps the set-group-id bit, and loses it without the right to it" *
          doctest::skip(::geteuid() != 0)) {
    const TemporaryDirectory directory;
    const std::string path = directory.file("file");
    make_file(path);
    REQUIRE(::chown(path.c_str(), 0, 55) == 0);
    REQUIRE(::chmod(path.c_str(), 02755) == 0);
    CHECK(mode_of(path) == 02755);
    {
        const WithoutSetIds without(56);
        REQUIRE(::chmod(path.c_str(), 02755) == 0);
        CHECK(mode_of(path) == 0755);
    }
    REQUIRE(::chmod(path.c_str(), 02755) == 0);
    CHECK(mode_of(path) == 02755);
    const WithoutSetIds without(55);
    REQUIRE(::chmod(path.c_str(), 02755) == 0);
    CHECK(mode_of(path) == 02755);
}
