#include "lib/options.h"

#include <doctest/doctest.h>

#include <initializer_list>

#include <string>
#include <vector>

using namespace nosigbus;

namespace {

Options parsed(std::string_view list) {
    Options options;
    parse_options(list, options);
    return options;
}

std::string complaint(std::string_view list) {
    try {
        parsed(list);
    } catch (const BadOption& bad) {
        return bad.what();
    }
    return {};
}

}  // namespace

TEST_CASE("without options the defaults hold") {
    const Options options = parsed("");
    CHECK(options.max_size == off_t{1} << 30);
    CHECK_FALSE(options.allow_other);
    CHECK(options.kernel.empty());
}

TEST_CASE("options are applied in order and the last one wins") {
    const Options options = parsed("max_size=4K,allow_other,max_size=64M,,ro,noallow_other");
    CHECK(options.max_size == 64 << 20);
    CHECK_FALSE(options.allow_other);
    CHECK(options.kernel == std::vector<std::string>{"ro"});
}

TEST_CASE("generic options go to the kernel, those of mount(8), fstab and systemd go nowhere") {
    const Options options = parsed(
        "rw,defaults,noauto,user,users,user=me,nofail,_netdev,noexec,x-systemd.automount,x-systemd.requires=a.service,"
        "X-mount.mkdir=0755,comment=for me,relatime,nosuid,nodev,noatime");
    CHECK(options.kernel == std::vector<std::string>{"rw", "noexec", "nosuid", "nodev", "noatime"});
}

TEST_CASE("a comma in quotes or behind a backslash belongs to the value") {
    CHECK(parsed("context=\"a:b:c0,c1\",ro").kernel == std::vector<std::string>{"context=a:b:c0,c1", "ro"});
    CHECK(parsed("context=a\\,b,ro").kernel == std::vector<std::string>{"context=a,b", "ro"});
}

TEST_CASE("a bad option is named and what is accepted is said") {
    for (const char* bad : {"max_size=0", "max_size=abc", "max_size=99E", "max_size=-4096", "max_size=1",
                            "max_size=4097", "max_size=9000000T", "max_size=2097152T"}) {
        const std::string said = complaint(bad);
        CAPTURE(said);
        CHECK(said.find(bad) != std::string::npos);
        CHECK(said.find("multiple of") != std::string::npos);
        CHECK(said.find('\n') == std::string::npos);
    }
    CHECK(complaint("max_size").find("needs a value") != std::string::npos);
    CHECK(complaint("max_size=").find("needs a value") != std::string::npos);
    CHECK(complaint("ro=1").find("takes no value") != std::string::npos);
    CHECK(complaint("frobnicate").find("unknown option frobnicate") != std::string::npos);
    CHECK(complaint("maxsize=1G").find("unknown option maxsize=1G") != std::string::npos);
    CHECK(complaint("rw,remount").find("option remount") != std::string::npos);
}

TEST_CASE("each name stands in the table once") {
    for (const OptionRule& rule : option_rules()) {
        int count = 0;
        for (const OptionRule& other : option_rules()) count += rule.name == other.name ? 1 : 0;
        CAPTURE(rule.name);
        CHECK(count == 1);
    }
}
