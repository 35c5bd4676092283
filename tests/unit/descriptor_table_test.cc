#include "lib/descriptor_table.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/resource.h>

#include <cerrno>
#include <system_error>
#include <vector>

#include "tests/unit/temporary.h"

using namespace nosigbus;

namespace {

// Of this process, while it lives.
class DescriptorLimit {
  public:
    explicit DescriptorLimit(rlim_t value) {
        ::getrlimit(RLIMIT_NOFILE, &before_);
        const rlimit low = {.rlim_cur = value, .rlim_max = before_.rlim_max};
        REQUIRE(::setrlimit(RLIMIT_NOFILE, &low) == 0);
    }
    DescriptorLimit(const DescriptorLimit&) = delete;
    DescriptorLimit& operator=(const DescriptorLimit&) = delete;
    ~DescriptorLimit() { ::setrlimit(RLIMIT_NOFILE, &before_); }

  private:
    rlimit before_{};
};

int error_of(void (*act)(int), int argument) {
    try {
        act(argument);
    } catch (const std::system_error& failure) {
        return failure.code().value();
    }
    return 0;
}

}  // namespace

TEST_CASE("what stays leaves an eighth of the descriptors to what comes and goes") {
    const UniqueFd any = sys::open_at(AT_FDCWD, "/", O_PATH);
    const DescriptorLimit limit(160);
    std::vector<UniqueFd> kept;
    bool has_run_out = false;
    for (int i = 0; i < 160 && !has_run_out; ++i) {
        const bool had_room = has_room_for_more(any.get());
        try {
            kept.push_back(to_stay(sys::duplicate(any.get())));
            CHECK(kept.back().get() < 140);
        } catch (const std::system_error& failure) {
            CHECK(failure.code().value() == ENFILE);
            has_run_out = true;
        }
        // The room is gone before the descriptors are: nothing is made in vain.
        CHECK((!has_run_out || !had_room));
    }
    CHECK(has_run_out);
    CHECK(kept.back().get() == 139);
    CHECK(error_of(check_room_for_more, any.get()) == ENFILE);
    // For a moment there still are some.
    {
        std::vector<UniqueFd> passing;
        for (int i = 0; i < 20; ++i) passing.push_back(sys::duplicate(any.get()));
        CHECK(is_reserved(passing.back().get()));
        CHECK_FALSE(has_room_for_more(any.get()));
    }
    while (kept.back().get() > 100) kept.pop_back();
    CHECK(has_room_for_more(any.get()));
    CHECK(error_of(check_room_for_more, any.get()) == 0);
}

TEST_CASE("the limit for descriptors is raised as far as it may be") {
    const DescriptorLimit limit(100);
    raise_descriptor_limit();
    rlimit now{};
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &now) == 0);
    CHECK(now.rlim_cur == now.rlim_max);
    CHECK(now.rlim_cur > 100);
}
