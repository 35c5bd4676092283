// Requests that the kernel asks again because a worker died over them: each is done once, and its answer is the first.
#ifdef NOSIGBUS_FAULT_POINTS

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "tests/session/workers.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

namespace fs = std::filesystem;

struct Request {
    std::uint64_t node;
    std::string body;
};

struct Case {
    const char* what;
    const char* operation;  // as places are called by
    fuse_opcode opcode;
    std::function<Request(Workers&)> prepare;
    int error;
    // Where it goes well: whether it has been done, once. Else: changes things so that it would go well now, or ill in
    // another way.
    std::function<bool(Workers&)> is_done;
    std::function<void(Workers&)> disturb;
};

std::string content(const std::string& path) {
    return content_of(sys::open_at(AT_FDCWD, path.c_str(), O_RDONLY).get());
}

bool is_type(const std::string& path, mode_t type) {
    struct stat attributes {};
    return ::lstat(path.c_str(), &attributes) == 0 && (attributes.st_mode & S_IFMT) == type;
}

bool is_there(const std::string& path) {
    struct stat attributes {};
    return ::lstat(path.c_str(), &attributes) == 0;
}

std::string attribute(const std::string& path) {
    std::string value(64, '\0');
    const ssize_t length = ::getxattr(path.c_str(), "user.mine", value.data(), value.size());
    return length < 0 ? "none" : value.substr(0, static_cast<std::size_t>(length));
}

void set_attribute(const std::string& path) {
    REQUIRE(::setxattr(path.c_str(), "user.mine", "old", 3, 0) == 0);
}

std::string create_body(const char* name, int flags) {
    fuse_create_in in{};
    in.mode = S_IFREG | 0644;
    in.flags = static_cast<std::uint32_t>(flags);
    return body(in) + name_of(name);
}

std::string mkdir_body(const char* name) {
    const fuse_mkdir_in in{.mode = 0755, .umask = 0};
    return body(in) + name_of(name);
}

std::string mknod_body(const char* name, mode_t type) {
    fuse_mknod_in in{};
    in.mode = type | 0644;
    return body(in) + name_of(name);
}

std::string rename_body(const char* from, const char* to, unsigned flags) {
    const fuse_rename2_in in{.newdir = FUSE_ROOT_ID, .flags = flags, .padding = 0};
    return body(in) + name_of(from) + name_of(to);
}

std::string setxattr_body(const std::string& value, int flags) {
    // As kernels send it to who does not ask for more (FUSE_COMPAT_SETXATTR_IN_SIZE).
    return body(static_cast<std::uint32_t>(value.size()), static_cast<std::uint32_t>(flags)) + name_of("user.mine") +
           value;
}

std::string link_body(std::uint64_t node, const char* name) {
    const fuse_link_in in{.oldnodeid = node};
    return body(in) + name_of(name);
}

// Where a worker can die when it has done what the case asks for, in the order it comes by. The answer of an append is
// given by the refresher, which is at work on no request: it has no such place.
std::vector<std::string> places_after(const Case& each) {
    std::vector<std::string> places = {"deed.executed", "deed.done"};
    if (each.opcode != FUSE_WRITE) places.push_back("answer." + std::string(each.operation));
    return places;
}

std::vector<Case> cases_that_go_well() {
    const auto there = [](const char* name, mode_t type) {
        return [=](Workers& workers) { return is_type(workers.file(name), type); };
    };
    return {
        {"create",
         "CREATE",
         FUSE_CREATE,
         [](Workers&) {
             return Request{FUSE_ROOT_ID, create_body("new", O_CREAT | O_RDWR)};
         },
         0,
         there("new", S_IFREG),
         {}},
        {"create, exclusively",
         "CREATE",
         FUSE_CREATE,
         [](Workers&) {
             return Request{FUSE_ROOT_ID, create_body("new", O_CREAT | O_EXCL | O_WRONLY)};
         },
         0,
         there("new", S_IFREG),
         {}},
        {"mkdir",
         "MKDIR",
         FUSE_MKDIR,
         [](Workers&) {
             return Request{FUSE_ROOT_ID, mkdir_body("new")};
         },
         0,
         there("new", S_IFDIR),
         {}},
        {"mknod of a file",
         "MKNOD",
         FUSE_MKNOD,
         [](Workers&) {
             return Request{FUSE_ROOT_ID, mknod_body("new", S_IFREG)};
         },
         0,
         there("new", S_IFREG),
         {}},
        {"mknod without a type",
         "MKNOD",
         FUSE_MKNOD,
         [](Workers&) {
             return Request{FUSE_ROOT_ID, mknod_body("new", 0)};
         },
         0,
         there("new", S_IFREG),
         {}},
        {"mknod of a fifo",
         "MKNOD",
         FUSE_MKNOD,
         [](Workers&) {
             return Request{FUSE_ROOT_ID, mknod_body("new", S_IFIFO)};
         },
         0,
         there("new", S_IFIFO),
         {}},
        {"symlink",
         "SYMLINK",
         FUSE_SYMLINK,
         [](Workers&) {
             return Request{FUSE_ROOT_ID, name_of("new") + name_of("target")};
         },
         0,
         [](Workers& workers) {
             return is_type(workers.file("new"), S_IFLNK) && fs::read_symlink(workers.file("new")) == "target";
         },
         {}},
        {"link",
         "LINK",
         FUSE_LINK,
         [](Workers& workers) {
             make_file(workers.file("a"));
             return Request{FUSE_ROOT_ID, link_body(workers.look_up("a").nodeid, "new")};
         },
         0,
         [](Workers& workers) { return fs::hard_link_count(workers.file("a")) == 2 && is_there(workers.file("new")); },
         {}},
        {"unlink",
         "UNLINK",
         FUSE_UNLINK,
         [](Workers& workers) {
             make_file(workers.file("a"));
             return Request{FUSE_ROOT_ID, name_of("a")};
         },
         0,
         [](Workers& workers) { return !is_there(workers.file("a")); },
         {}},
        {"unlink of one of two names",
         "UNLINK",
         FUSE_UNLINK,
         [](Workers& workers) {
             make_file(workers.file("a"));
             fs::create_hard_link(workers.file("a"), workers.file("b"));
             return Request{FUSE_ROOT_ID, name_of("a")};
         },
         0,
         [](Workers& workers) { return !is_there(workers.file("a")) && is_there(workers.file("b")); },
         {}},
        {"rmdir",
         "RMDIR",
         FUSE_RMDIR,
         [](Workers& workers) {
             fs::create_directory(workers.file("d"));
             return Request{FUSE_ROOT_ID, name_of("d")};
         },
         0,
         [](Workers& workers) { return !is_there(workers.file("d")); },
         {}},
        {"rename",
         "RENAME",
         FUSE_RENAME2,
         [](Workers& workers) {
             make_file(workers.file("a"), "a");
             return Request{FUSE_ROOT_ID, rename_body("a", "b", 0)};
         },
         0,
         [](Workers& workers) { return !is_there(workers.file("a")) && is_there(workers.file("b")); },
         {}},
        {"rename, by the request of old",
         "RENAME",
         FUSE_RENAME,
         [](Workers& workers) {
             make_file(workers.file("a"), "a");
             const fuse_rename_in in{.newdir = FUSE_ROOT_ID};
             return Request{FUSE_ROOT_ID, body(in) + name_of("a") + name_of("b")};
         },
         0,
         [](Workers& workers) { return !is_there(workers.file("a")) && is_there(workers.file("b")); },
         {}},
        {"rename in the place of another",
         "RENAME",
         FUSE_RENAME2,
         [](Workers& workers) {
             make_file(workers.file("a"), "a");
             make_file(workers.file("b"), "b");
             return Request{FUSE_ROOT_ID, rename_body("a", "b", 0)};
         },
         0,
         [](Workers& workers) { return !is_there(workers.file("a")) && content(workers.file("b")) == "a"; },
         {}},
        {"rename, without replacing",
         "RENAME",
         FUSE_RENAME2,
         [](Workers& workers) {
             make_file(workers.file("a"), "a");
             return Request{FUSE_ROOT_ID, rename_body("a", "b", RENAME_NOREPLACE)};
         },
         0,
         [](Workers& workers) { return !is_there(workers.file("a")) && is_there(workers.file("b")); },
         {}},
        {"rename, exchanging",
         "RENAME",
         FUSE_RENAME2,
         [](Workers& workers) {
             make_file(workers.file("a"), "a");
             make_file(workers.file("b"), "b");
             return Request{FUSE_ROOT_ID, rename_body("a", "b", RENAME_EXCHANGE)};
         },
         0,
         [](Workers& workers) { return content(workers.file("a")) == "b" && content(workers.file("b")) == "a"; },
         {}},
        {"setxattr, creating",
         "SETXATTR",
         FUSE_SETXATTR,
         [](Workers& workers) {
             make_file(workers.file("a"));
             return Request{workers.look_up("a").nodeid, setxattr_body("new", XATTR_CREATE)};
         },
         0,
         [](Workers& workers) { return attribute(workers.file("a")) == "new"; },
         {}},
        {"setxattr of an empty value, creating",
         "SETXATTR",
         FUSE_SETXATTR,
         [](Workers& workers) {
             make_file(workers.file("a"));
             return Request{workers.look_up("a").nodeid, setxattr_body("", XATTR_CREATE)};
         },
         0,
         [](Workers& workers) { return attribute(workers.file("a")).empty(); },
         {}},
        {"setxattr, replacing",
         "SETXATTR",
         FUSE_SETXATTR,
         [](Workers& workers) {
             make_file(workers.file("a"));
             set_attribute(workers.file("a"));
             return Request{workers.look_up("a").nodeid, setxattr_body("new", XATTR_REPLACE)};
         },
         0,
         [](Workers& workers) { return attribute(workers.file("a")) == "new"; },
         {}},
        {"removexattr",
         "REMOVEXATTR",
         FUSE_REMOVEXATTR,
         [](Workers& workers) {
             make_file(workers.file("a"));
             set_attribute(workers.file("a"));
             return Request{workers.look_up("a").nodeid, name_of("user.mine")};
         },
         0,
         [](Workers& workers) { return attribute(workers.file("a")) == "none"; },
         {}},
        {"append",
         "WRITE",
         FUSE_WRITE,
         [](Workers& workers) {
             make_file(workers.file("a"), "one,");
             const std::uint64_t node = workers.look_up("a").nodeid;
             return Request{node, write_body(workers.open(node, O_RDWR | O_APPEND), "two,", O_RDWR | O_APPEND)};
         },
         0,
         [](Workers& workers) { return content(workers.file("a")) == "one,two,"; },
         {}},
        {"append of what stands at the end already",
         "WRITE",
         FUSE_WRITE,
         [](Workers& workers) {
             make_file(workers.file("a"), "one,one,");
             const std::uint64_t node = workers.look_up("a").nodeid;
             return Request{node, write_body(workers.open(node, O_WRONLY | O_APPEND), "one,", O_WRONLY | O_APPEND)};
         },
         0,
         [](Workers& workers) { return content(workers.file("a")) == "one,one,one,"; },
         {}},
    };
}

std::vector<Case> cases_that_fail() {
    const auto file_there = [](const char* operation, fuse_opcode opcode, int error, const std::string& request) {
        return Case{operation,
                    operation,
                    opcode,
                    [request](Workers& workers) {
                        make_file(workers.file("new"), "precious");
                        return Request{FUSE_ROOT_ID, request};
                    },
                    error,
                    [](Workers& workers) { return !is_there(workers.file("new")); },
                    [](Workers& workers) { fs::remove(workers.file("new")); }};
    };
    const auto nothing_there = [](const char* what, const char* operation, fuse_opcode opcode,
                                  const std::string& request) {
        return Case{what,
                    operation,
                    opcode,
                    [request](Workers& workers) {
                        make_file(workers.file("b"), "b");
                        return Request{FUSE_ROOT_ID, request};
                    },
                    ENOENT,
                    [](Workers& workers) { return is_there(workers.file("a")) && content(workers.file("b")) == "b"; },
                    [opcode](Workers& workers) {
                        if (opcode == FUSE_RMDIR) {
                            fs::create_directory(workers.file("a"));
                        } else {
                            make_file(workers.file("a"));
                        }
                    }};
    };
    return {
        file_there("CREATE", FUSE_CREATE, EEXIST, create_body("new", O_CREAT | O_EXCL | O_RDWR)),
        file_there("CREATE", FUSE_CREATE, ESTALE, create_body("new", O_CREAT | O_RDWR)),
        file_there("MKDIR", FUSE_MKDIR, EEXIST, mkdir_body("new")),
        file_there("MKNOD", FUSE_MKNOD, EEXIST, mknod_body("new", S_IFREG)),
        file_there("SYMLINK", FUSE_SYMLINK, EEXIST, name_of("new") + name_of("target")),
        nothing_there("unlink", "UNLINK", FUSE_UNLINK, name_of("a")),
        nothing_there("rmdir", "RMDIR", FUSE_RMDIR, name_of("a")),
        nothing_there("rename", "RENAME", FUSE_RENAME2, rename_body("a", "b", 0)),
        nothing_there("rename, without replacing", "RENAME", FUSE_RENAME2, rename_body("a", "c", RENAME_NOREPLACE)),
        nothing_there("rename, exchanging", "RENAME", FUSE_RENAME2, rename_body("a", "b", RENAME_EXCHANGE)),
        {"link", "LINK", FUSE_LINK,
         [](Workers& workers) {
             make_file(workers.file("a"));
             make_file(workers.file("new"));
             return Request{FUSE_ROOT_ID, link_body(workers.look_up("a").nodeid, "new")};
         },
         EEXIST, [](Workers& workers) { return !is_there(workers.file("new")); },
         [](Workers& workers) { fs::remove(workers.file("new")); }},
        {"rmdir of what is not empty", "RMDIR", FUSE_RMDIR,
         [](Workers& workers) {
             fs::create_directories(workers.file("d/e"));
             return Request{FUSE_ROOT_ID, name_of("d")};
         },
         ENOTEMPTY, [](Workers& workers) { return is_there(workers.file("d")) && !is_there(workers.file("d/e")); },
         [](Workers& workers) { fs::remove(workers.file("d/e")); }},
        {"rename over what may not be replaced", "RENAME", FUSE_RENAME2,
         [](Workers& workers) {
             make_file(workers.file("a"), "a");
             make_file(workers.file("b"), "b");
             return Request{FUSE_ROOT_ID, rename_body("a", "b", RENAME_NOREPLACE)};
         },
         EEXIST, [](Workers& workers) { return is_there(workers.file("a")) && !is_there(workers.file("b")); },
         [](Workers& workers) { fs::remove(workers.file("b")); }},
        {"setxattr, creating", "SETXATTR", FUSE_SETXATTR,
         [](Workers& workers) {
             make_file(workers.file("a"));
             set_attribute(workers.file("a"));
             return Request{workers.look_up("a").nodeid, setxattr_body("new", XATTR_CREATE)};
         },
         EEXIST, [](Workers& workers) { return attribute(workers.file("a")) == "none"; },
         [](Workers& workers) { REQUIRE(::removexattr(workers.file("a").c_str(), "user.mine") == 0); }},
        {"removexattr", "REMOVEXATTR", FUSE_REMOVEXATTR,
         [](Workers& workers) {
             make_file(workers.file("a"));
             return Request{workers.look_up("a").nodeid, name_of("user.mine")};
         },
         ENODATA, [](Workers& workers) { return attribute(workers.file("a")) == "old"; },
         [](Workers& workers) { set_attribute(workers.file("a")); }},
    };
}

// A kernel that asks again what a worker had read when it died, and one that does not.
struct AsksAgain {
    static Offer offer() { return {}; }
};

struct AsksOnce {
    static Offer offer() {
        Offer offer;
        offer.flags &= ~kernel::has_resend;
        return offer;
    }
};

void check_nothing_left(Workers& workers) {
    workers.ask_something_new();
    CHECK(soon([&] { return in_use(workers.state().deeds()) == 0; }));
    CHECK(soon([&] { return in_use(workers.state().lookups()) == 0; }));
}

// The nodes and handles that an answer told of, which the kernel now has: one lookup and one handle each.
void check_given(Workers& workers, fuse_opcode opcode, const Answer& answer) {
    const bool has_entry = opcode == FUSE_CREATE || opcode == FUSE_MKDIR || opcode == FUSE_MKNOD ||
                           opcode == FUSE_SYMLINK || opcode == FUSE_LINK;
    if (!has_entry) return;
    const std::uint64_t node = answer.as<fuse_entry_out>().nodeid;
    if (opcode == FUSE_CREATE) {
        fuse_open_out opened{};
        REQUIRE(answer.bytes.size() == sizeof(fuse_entry_out) + sizeof opened);
        std::memcpy(&opened, answer.bytes.data() + sizeof(fuse_entry_out), sizeof opened);
        CHECK(in_use(workers.state().open_files()) == 1);
        CHECK(workers.write(node, opened.fh, "written", O_RDWR).error == 0);
        CHECK(content(workers.file("new")) == "written");
        fuse_release_in release{};
        release.fh = opened.fh;
        CHECK(workers.call(FUSE_RELEASE, node, body(release)).error == 0);
        CHECK(in_use(workers.state().open_files()) == 0);
    }
    CHECK(workers.look_up("new").nodeid == node);
    // Twice, that is, or with the name it was linked to three times.
    const std::uint64_t times = opcode == FUSE_LINK ? 3 : 2;
    workers.forget(node, times - 1);
    workers.ask_something_new();
    ::usleep(5000);
    CHECK(workers.get_attributes(node) == 0);
    workers.forget(node, 1);
    CHECK(soon([&] { return workers.get_attributes(node) == ESTALE; }));
}

}  // namespace

TEST_CASE_TEMPLATE("what a worker had done, had begun or had not begun when it died is done once, and goes well",
                   Kernel, AsksAgain, AsksOnce) {
    for (const Case& each : cases_that_go_well()) {
        std::vector<std::string> places = places_after(each);
        const std::string beginning = "request." + std::string(each.operation);
        places.insert(places.end(), {beginning, "deed.begun"});
        for (const std::string& place : places) {
            const std::string what = each.what;
            CAPTURE(what);
            CAPTURE(place);
            Workers workers({}, Kernel::offer());
            const Request request = each.prepare(workers);
            CHECK_FALSE(each.is_done(workers));
            workers.let_die_at(place);
            const Sent sent = workers.ask(each.opcode, request.node, request.body);
            workers.wait_for_death();
            const bool was_executed = place != beginning && place != "deed.begun";
            CHECK(each.is_done(workers) == was_executed);
            workers.start();
            const Answer answer = workers.ask_again(sent);
            CHECK(answer.error == 0);
            CHECK(each.is_done(workers));
            if (each.opcode == FUSE_WRITE) CHECK(answer.as<fuse_write_out>().size == 4);
            check_nothing_left(workers);
            check_given(workers, each.opcode, answer);
        }
    }
}

TEST_CASE_TEMPLATE("an error stays what it was, though it would not be one any more", Kernel, AsksAgain, AsksOnce) {
    for (const Case& each : cases_that_fail()) {
        const std::string operation = each.operation;
        for (const std::string& place : {"request." + operation, std::string("deed.begun"), "answer." + operation}) {
            const std::string what = each.what;
            CAPTURE(what);
            CAPTURE(place);
            Workers workers({}, Kernel::offer());
            const Request request = each.prepare(workers);
            workers.let_die_at(place);
            const Sent sent = workers.ask(each.opcode, request.node, request.body);
            workers.wait_for_death();
            const bool is_noted = place.starts_with("answer.");
            if (is_noted) {
                each.disturb(workers);
                CHECK(each.is_done(workers));
            }
            workers.start();
            CHECK(workers.ask_again(sent).error == each.error);
            // And nothing was done.
            CHECK(each.is_done(workers) == is_noted);
            check_nothing_left(workers);
        }
    }
}

TEST_CASE_TEMPLATE("a request is done once also where worker after worker dies over it", Kernel, AsksAgain, AsksOnce) {
    for (const Case& each : cases_that_go_well()) {
        const std::string what = each.what;
        CAPTURE(what);
        Workers workers({}, Kernel::offer());
        const Request request = each.prepare(workers);
        workers.let_die_at("deed.begun");
        const Sent sent = workers.ask(each.opcode, request.node, request.body);
        workers.wait_for_death();
        for (const std::string& place : places_after(each)) {
            workers.let_die_at(place);
            workers.start();
            workers.send_again(sent);
            workers.wait_for_death();
            CHECK(each.is_done(workers));
        }
        workers.start();
        const Answer answer = workers.ask_again(sent);
        CHECK(answer.error == 0);
        CHECK(each.is_done(workers));
        check_nothing_left(workers);
        check_given(workers, each.opcode, answer);
    }
}

TEST_CASE_TEMPLATE("a request like one that was asked again, and new, is done anew", Kernel, AsksAgain, AsksOnce) {
    Workers workers({}, Kernel::offer());
    workers.let_die_at("answer.MKDIR");
    const Sent sent = workers.ask(FUSE_MKDIR, FUSE_ROOT_ID, mkdir_body("d"));
    workers.wait_for_death();
    workers.start();
    CHECK(workers.ask_again(sent).error == 0);
    CHECK(workers.call(FUSE_MKDIR, FUSE_ROOT_ID, mkdir_body("d")).error == EEXIST);
    CHECK(workers.call(FUSE_UNLINK, FUSE_ROOT_ID, name_of("d")).error == EISDIR);
    CHECK(workers.call(FUSE_RMDIR, FUSE_ROOT_ID, name_of("d")).error == 0);
    CHECK(workers.call(FUSE_RMDIR, FUSE_ROOT_ID, name_of("d")).error == ENOENT);
}

TEST_CASE_TEMPLATE("what was begun and is there since before is not taken for what was made", Kernel, AsksAgain,
                   AsksOnce) {
    // A directory that another made before the note was dated cannot be; one of another type than was asked for can.
    Workers workers({}, Kernel::offer());
    workers.let_die_at("deed.begun");
    const Sent sent = workers.ask(FUSE_MKDIR, FUSE_ROOT_ID, mkdir_body("new"));
    workers.wait_for_death();
    make_file(workers.file("new"), "somebody else's");
    workers.start();
    CHECK(workers.ask_again(sent).error == EEXIST);
    CHECK(content(workers.file("new")) == "somebody else's");
}

TEST_CASE_TEMPLATE("a file that comes up in the place of one that was to be removed stays", Kernel, AsksAgain,
                   AsksOnce) {
    Workers workers({}, Kernel::offer());
    make_file(workers.file("a"), "old");
    workers.let_die_at("deed.executed");
    const Sent sent = workers.ask(FUSE_UNLINK, FUSE_ROOT_ID, name_of("a"));
    workers.wait_for_death();
    ::usleep(20'000);
    make_file(workers.file("a"), "new");
    workers.start();
    CHECK(workers.ask_again(sent).error == 0);
    CHECK(content(workers.file("a")) == "new");
}

TEST_CASE_TEMPLATE("an append of which a part was done is finished", Kernel, AsksAgain, AsksOnce) {
    for (const std::string& part : {std::string("tw"), std::string("two")}) {
        CAPTURE(part);
        Workers workers({}, Kernel::offer());
        const UniqueFd file = make_file(workers.file("a"), "one,");
        const std::uint64_t node = workers.look_up("a").nodeid;
        const std::uint64_t handle = workers.open(node, O_RDWR | O_APPEND);
        workers.let_die_at("deed.begun");
        const Sent sent = workers.ask(FUSE_WRITE, node, write_body(handle, "two,", O_RDWR | O_APPEND));
        workers.wait_for_death();
        REQUIRE(::pwrite(file.get(), part.data(), part.size(), 4) == static_cast<ssize_t>(part.size()));
        workers.start();
        const Answer answer = workers.ask_again(sent);
        CHECK(answer.error == 0);
        CHECK(answer.as<fuse_write_out>().size == 4);
        CHECK(content_of(file.get()) == "one,two,");
    }
}

TEST_CASE_TEMPLATE("an append is found among what others have appended since, and where it is not it is done", Kernel,
                   AsksAgain, AsksOnce) {
    for (const bool was_executed : {true, false}) {
        CAPTURE(was_executed);
        Workers workers({}, Kernel::offer());
        const UniqueFd file = make_file(workers.file("a"), "one,");
        const std::uint64_t node = workers.look_up("a").nodeid;
        const std::uint64_t handle = workers.open(node, O_RDWR | O_APPEND);
        workers.let_die_at(was_executed ? "deed.executed" : "deed.begun");
        const Sent sent = workers.ask(FUSE_WRITE, node, write_body(handle, "two,", O_RDWR | O_APPEND));
        workers.wait_for_death();
        REQUIRE(::pwrite(file.get(), "three,", 6, sys::file_size(file.get())) == 6);
        workers.start();
        CHECK(workers.ask_again(sent).as<fuse_write_out>().size == 4);
        CHECK(content_of(file.get()) == (was_executed ? "one,two,three," : "one,three,two,"));
    }
}

TEST_CASE_TEMPLATE("an append of which a part was done, and whose rest cannot be, says how much there is of it", Kernel,
                   AsksAgain, AsksOnce) {
    Workers workers({}, Kernel::offer());
    const UniqueFd file = make_file(workers.file("a"), "one,");
    const std::uint64_t node = workers.look_up("a").nodeid;
    const std::uint64_t handle = workers.open(node, O_RDWR | O_APPEND);
    workers.let_die_at("deed.begun");
    const Sent sent = workers.ask(FUSE_WRITE, node, write_body(handle, "two,", O_RDWR | O_APPEND));
    workers.wait_for_death();
    REQUIRE(::pwrite(file.get(), "tw", 2, 4) == 2);
    // The next worker inherits that a file may be so large and no larger. Its log, and what sanitizers write, are not
    // files of ours.
    rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit small = {.rlim_cur = 6, .rlim_max = before.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
    workers.start();
    const Answer answer = workers.ask_again(sent);
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
    CHECK(answer.error == 0);
    CHECK(answer.as<fuse_write_out>().size == 2);
    CHECK(content_of(file.get()) == "one,tw");
}

TEST_CASE_TEMPLATE("a truncation that nobody asked for is not made either when it is asked again", Kernel, AsksAgain,
                   AsksOnce) {
    // After a direct write past the view's end that failed, the kernel truncates to the size it knows.
    Workers workers({}, Kernel::offer());
    const UniqueFd file = make_file(workers.file("a"), "hello");
    const fuse_entry_out entry = workers.look_up("a");
    const std::uint64_t handle = workers.open(entry.nodeid, O_RDWR);
    fuse_write_in write{};
    write.fh = handle;
    write.offset = std::uint64_t{0x7fff'ffff'ffff'f000};
    write.size = 4;
    write.flags = O_RDWR;
    REQUIRE(workers.call(FUSE_WRITE, entry.nodeid, body(write) + "fail").error == EFBIG);
    fuse_setattr_in in{};
    in.valid = FATTR_SIZE | FATTR_FH;
    in.fh = handle;
    in.size = entry.attr.size;
    workers.let_die_at("answer.SETATTR");
    const Sent sent = workers.ask(FUSE_SETATTR, entry.nodeid, body(in));
    workers.wait_for_death();
    CHECK(content_of(file.get()) == "hello");
    workers.start();
    CHECK(workers.ask_again(sent).error == 0);
    CHECK(sys::file_size(file.get()) == 5);
}

TEST_CASE_TEMPLATE("a lookup is counted once, wherever the worker died that was asked first", Kernel, AsksAgain,
                   AsksOnce) {
    for (const std::string place : {"request.LOOKUP", "slot.taken", "slot.filled", "slot.published", "lookup.counted",
                                    "lookup.noted", "answer.LOOKUP"}) {
        for (const unsigned passes : {0U, 1U}) {
            CAPTURE(place);
            CAPTURE(passes);
            if (passes > 0 && !place.starts_with("slot.")) continue;
            Workers workers({}, Kernel::offer());
            make_file(workers.file("a"));
            workers.let_die_at(place, passes);
            const Sent sent = workers.ask(FUSE_LOOKUP, FUSE_ROOT_ID, name_of("a"));
            workers.wait_for_death();
            workers.start();
            const Answer answer = workers.ask_again(sent);
            REQUIRE(answer.error == 0);
            const std::uint64_t node = answer.as<fuse_entry_out>().nodeid;
            check_nothing_left(workers);
            CHECK(workers.get_attributes(node) == 0);
            workers.forget(node, 1);
            // One too many is harmless, and what dying between two instructions may leave.
            if (place != "lookup.counted") CHECK(soon([&] { return workers.get_attributes(node) == ESTALE; }));
        }
    }
}

TEST_CASE_TEMPLATE("a lookup that was answered just before the worker died is counted", Kernel, AsksAgain, AsksOnce) {
    Workers workers({}, Kernel::offer());
    make_file(workers.file("a"));
    workers.let_die_at("lookup.answered");
    const Sent sent = workers.ask(FUSE_LOOKUP, FUSE_ROOT_ID, name_of("a"));
    const Answer answer = workers.wait_for(sent.unique);
    workers.wait_for_death();
    workers.start();
    const std::uint64_t node = answer.as<fuse_entry_out>().nodeid;
    check_nothing_left(workers);
    CHECK(workers.get_attributes(node) == 0);
    CHECK(workers.look_up("a").nodeid == node);
    workers.forget(node, 2);
    CHECK(soon([&] { return workers.get_attributes(node) == ESTALE; }));
}

TEST_CASE_TEMPLATE("the entries of a directory that is read again are counted once each", Kernel, AsksAgain, AsksOnce) {
    Workers workers({}, Kernel::offer());
    for (const char* name : {"a", "b", "c"}) make_file(workers.file(name));
    const Answer opened = workers.call(FUSE_OPENDIR, FUSE_ROOT_ID, body(fuse_open_in{}));
    REQUIRE(opened.error == 0);
    const std::uint64_t a = workers.look_up("a").nodeid;
    fuse_read_in in{};
    in.fh = opened.as<fuse_open_out>().fh;
    in.size = 65536;
    workers.let_die_at("answer.READDIRPLUS");
    const Sent sent = workers.ask(FUSE_READDIRPLUS, FUSE_ROOT_ID, body(in));
    workers.wait_for_death();
    workers.start();
    const Answer answer = workers.ask_again(sent);
    CHECK(answer.bytes.size() > 5 * sizeof(fuse_entry_out));
    check_nothing_left(workers);
    for (const NodeSlot& slot : workers.state().nodes().taken()) {
        if (slot.id != 0 && slot.id != FUSE_ROOT_ID) CHECK(slot.lookups == (slot.id == a ? 2 : 1));
    }
    CHECK(in_use(workers.state().nodes()) == 4);
}

TEST_CASE_TEMPLATE("a file that is opened again has one handle, wherever the worker died that was asked first", Kernel,
                   AsksAgain, AsksOnce) {
    for (const std::string place : {"request.OPEN", "slot.published", "answer.OPEN", "processed.OPEN"}) {
        CAPTURE(place);
        Workers workers({}, Kernel::offer());
        make_file(workers.file("a"), "hello");
        const std::uint64_t node = workers.look_up("a").nodeid;
        fuse_open_in in{};
        in.flags = O_RDWR;
        workers.let_die_at(place);
        const Sent sent = workers.ask(FUSE_OPEN, node, body(in));
        const bool is_answered = place == "processed.OPEN";
        Answer answer{};
        if (is_answered) answer = workers.wait_for(sent.unique);
        workers.wait_for_death();
        workers.start();
        if (!is_answered) answer = workers.ask_again(sent);
        REQUIRE(answer.error == 0);
        check_nothing_left(workers);
        CHECK(in_use(workers.state().open_files()) == 1);
        const std::uint64_t handle = answer.as<fuse_open_out>().fh;
        CHECK(workers.read(node, handle, 4096).bytes.starts_with("hello"));
        workers.replace();
        CHECK(workers.read(node, handle, 4096).bytes.starts_with("hello"));
        fuse_release_in release{};
        release.fh = handle;
        CHECK(workers.call(FUSE_RELEASE, node, body(release)).error == 0);
        CHECK(in_use(workers.state().open_files()) == 0);
    }
}

TEST_CASE_TEMPLATE("a file that is created again is the same, wherever the worker died after it had made it", Kernel,
                   AsksAgain, AsksOnce) {
    // The slots are, in this order: the deed's, the lookup's, the node's, the open file's.
    for (const unsigned passes : {0U, 1U, 2U, 3U}) {
        for (const std::string place : {"slot.filled", "slot.published"}) {
            CAPTURE(passes);
            CAPTURE(place);
            Workers workers({}, Kernel::offer());
            workers.let_die_at(place, passes);
            const Sent sent = workers.ask(FUSE_CREATE, FUSE_ROOT_ID, create_body("new", O_CREAT | O_EXCL | O_RDWR));
            workers.wait_for_death();
            CHECK(is_there(workers.file("new")) == (passes > 0));
            workers.start();
            const Answer answer = workers.ask_again(sent);
            CHECK(answer.error == 0);
            check_nothing_left(workers);
            check_given(workers, FUSE_CREATE, answer);
        }
    }
}

TEST_CASE_TEMPLATE("a release that is asked again is answered, and the handle is gone", Kernel, AsksAgain, AsksOnce) {
    for (const std::string place : {"request.RELEASE", "slot.turned", "slot.free", "answer.RELEASE"}) {
        CAPTURE(place);
        Workers workers({}, Kernel::offer());
        make_file(workers.file("a"), "hello");
        const std::uint64_t node = workers.look_up("a").nodeid;
        CHECK(soon([&] { return in_use(workers.state().lookups()) == 0; }));
        fuse_release_in in{};
        in.fh = workers.open(node, O_RDONLY);
        workers.let_die_at(place);
        const Sent sent = workers.ask(FUSE_RELEASE, node, body(in));
        workers.wait_for_death();
        workers.start();
        CHECK(workers.ask_again(sent).error == 0);
        CHECK(in_use(workers.state().open_files()) == 0);
        CHECK(workers.open(node, O_RDONLY) != in.fh);
    }
}

#endif
