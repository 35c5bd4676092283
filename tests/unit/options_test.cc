#include "lib/options.h"

#include <doctest/doctest.h>

#include <chrono>
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
    CHECK(options.stat == Options::Stat::view);
    CHECK(options.refresh.count() == 0);
    CHECK(options.on_error == Options::OnError::zeros);
    CHECK_FALSE(options.cached_opens);
    CHECK_FALSE(options.keep_requests);
    CHECK(options.fd_views);
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

TEST_CASE("what stat tells, how often views are compared, what an unreadable page is, how files are opened") {
    using namespace std::chrono_literals;
    CHECK(parsed("stat=real").stat == Options::Stat::real);
    CHECK(parsed("stat=real,stat=view").stat == Options::Stat::view);
    CHECK(parsed("refresh=0").refresh == 0ms);
    CHECK(parsed("refresh=1").refresh == 1ms);
    CHECK(parsed("refresh=86400000").refresh == 24h);
    CHECK(parsed("refresh=250,refresh=0").refresh == 0ms);
    CHECK(parsed("").engine == Options::Engine::automatic);
    CHECK(parsed("engine=cache").engine == Options::Engine::cache);
    CHECK(parsed("engine=shadow").engine == Options::Engine::shadow);
    CHECK(parsed("engine=shadow,engine=auto").engine == Options::Engine::automatic);
    CHECK(parsed("").shadow_max == off_t{64} << 20);
    CHECK(parsed("shadow_max=0").shadow_max == 0);
    CHECK(parsed("shadow_max=5000").shadow_max == 5000);
    CHECK(parsed("").shadow_memory > 0);
    CHECK(parsed("shadow_memory=1G").shadow_memory == off_t{1} << 30);
    CHECK(parsed("on_error=fail").on_error == Options::OnError::fail);
    CHECK(parsed("on_error=fail,on_error=zeros").on_error == Options::OnError::zeros);
    CHECK(parsed("cached_opens").cached_opens);
    CHECK(parsed("keep_requests").keep_requests);
    CHECK(parsed("fd_views=no,fd_views=yes").fd_views);
    CHECK_FALSE(parsed("fd_views=no").fd_views);
    const Options all = parsed("stat=real,refresh=100,on_error=fail,cached_opens,ro");
    CHECK(all.stat == Options::Stat::real);
    CHECK(all.refresh == 100ms);
    CHECK(all.on_error == Options::OnError::fail);
    CHECK(all.cached_opens);
    CHECK(all.kernel == std::vector<std::string>{"ro"});  // the others are ours
}

TEST_CASE("a bad value is named with its option, and what would be a good one is said in the same line") {
    struct Case {
        const char* option;
        const char* said;
    };
    for (const Case& bad : {Case{"stat=both", "view or real"},
                            Case{"stat=REAL", "view or real"},
                            Case{"stat=view ", "view or real"},
                            Case{"stat=", "needs a value"},
                            Case{"stat", "needs a value"},
                            Case{"refresh=-1", "milliseconds"},
                            Case{"engine=fast", "auto, cache or shadow expected"},
                            Case{"engine", "engine=..."},
                            Case{"shadow_max=-1", "number of bytes"},
                            Case{"shadow_max=1E", "number of bytes"},
                            Case{"shadow_memory=half", "number of bytes"},
                            Case{"refresh=abc", "milliseconds"},
                            Case{"refresh=1s", "milliseconds"},
                            Case{"refresh=1.5", "milliseconds"},
                            Case{"refresh=+1", "milliseconds"},
                            Case{"refresh= 1", "milliseconds"},
                            Case{"refresh=86400001", "86400000"},
                            Case{"refresh=99999999999999999999", "86400000"},
                            Case{"refresh", "needs a value"},
                            Case{"refresh=", "needs a value"},
                            Case{"on_error=panic", "zeros or fail"},
                            Case{"on_error=zeros,on_error=1", "zeros or fail"},
                            Case{"on_error", "needs a value"},
                            Case{"fd_views=on", "yes or no"},
                            Case{"fd_views", "needs a value"},
                            Case{"cached_opens=1", "takes no value"},
                            Case{"cached_opens=", "takes no value"},
                            Case{"cached_open", "unknown option"}}) {
        const std::string said = complaint(bad.option);
        const std::string option = bad.option;
        CAPTURE(option);
        CAPTURE(said);
        CHECK(said.find("option " + option.substr(option.find(',') + 1)) != std::string::npos);
        CHECK(said.find(bad.said) != std::string::npos);
        CHECK(said.find('\n') == std::string::npos);
    }
}

TEST_CASE("what a user may want to know of has a help line") {
    int with_help = 0;
    for (const char* name : {"max_size", "stat", "refresh", "on_error", "cached_opens", "fd_views", "allow_other"}) {
        for (const OptionRule& rule : option_rules()) with_help += rule.name == name && !rule.help.empty() ? 1 : 0;
    }
    CHECK(with_help == 7);
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
    CHECK(complaint("rw,user_id=0,remount").find("option remount") != std::string::npos);  // as util-linux 2.41 does
}

TEST_CASE("each name stands in the table once") {
    for (const OptionRule& rule : option_rules()) {
        int count = 0;
        for (const OptionRule& other : option_rules()) count += rule.name == other.name ? 1 : 0;
        CAPTURE(rule.name);
        CHECK(count == 1);
    }
}
