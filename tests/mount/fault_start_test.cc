// Workers that die before they serve, and while they take over.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <atomic>
#include <csignal>
#include <fstream>
#include <future>
#include <set>
#include <string>
#include <thread>

#include "tests/mount/fault_operations.h"
#include "tests/mount/faults.h"
#include "tests/mount/files.h"
#include "tests/mount/loading.h"
#include "tests/mount/mapping.h"
#include "tests/mount/parity.h"
#include "tests/mount/process.h"
#include "tests/mount/view_mount.h"
#include "tests/mount/worker.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

using std::chrono::milliseconds;

// Appends record after record, in a thread.
class Appending {
  public:
    explicit Appending(const std::string& path)
        : file_(open_file(path, O_WRONLY | O_APPEND | O_CREAT)), thread_([this] {
              while (!over_) {
                  const std::string record = fmt::format("record {}\n", records_.load());
                  if (::write(file_.get(), record.data(), record.size()) != static_cast<ssize_t>(record.size()))
                      ++failures_;
                  ++records_;
              }
          }) {}
    Appending(const Appending&) = delete;
    Appending& operator=(const Appending&) = delete;
    ~Appending() { end(); }

    void end() {
        over_ = true;
        if (thread_.joinable()) thread_.join();
    }
    [[nodiscard]] unsigned records() const { return records_; }
    [[nodiscard]] unsigned failures() const { return failures_; }

    // What has been appended by now.
    [[nodiscard]] std::string all() const {
        std::string all;
        for (unsigned i = 0; i < records_; ++i) all += fmt::format("record {}\n", i);
        return all;
    }

  private:
    UniqueFd file_;
    std::atomic<bool> over_ = false;
    std::atomic<unsigned> records_ = 0;
    std::atomic<unsigned> failures_ = 0;
    std::thread thread_;
};

// So many workers more than `killed`, one after the other and each as soon as it exists. False where there is none for
// long.
bool kill_each_new_worker(const ViewMount& mount, std::size_t count, std::set<pid_t>& killed) {
    const std::size_t wanted = killed.size() + count;
    const std::string path = fmt::format("/proc/{0}/task/{0}/children", mount.pid());
    const pid_t heir = heir_of(mount.pid());
    while (killed.size() < wanted) {
        const bool one_more = eventually([&] {
            std::ifstream workers(path);
            pid_t pid = 0;
            while (workers >> pid) {
                if (pid == heir) continue;
                if (killed.insert(pid).second) return ::kill(pid, SIGKILL) == 0;
            }
            return false;
        });
        if (!one_more) return false;
    }
    return true;
}

Operation operation_on_names(const std::string& name) {
    for (const Operation& operation : operations_on_names()) {
        if (operation.name == name) return operation;
    }
    throw std::runtime_error("no operation is called " + name);
}

}  // namespace

TEST_SUITE_BEGIN("fault");

TEST_CASE("a worker that dies while it takes over is replaced") {
    const ViewMount mount({"max_size=1M", "engine=cache"});
    const UniqueFd raw = make_file(mount.raw("file"), pattern(0, 20 * page));
    for (const std::string point : {"worker.starts", "worker.taken_over", "worker.resumed", "worker.watches"}) {
        CAPTURE(point);
        const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
        const Mapping mapping(view.get(), MiB);
        const GrowsUp grows_up;
        const Replacements replacements(mount);
        const Worker worker(mount);
        // The worker of now passes the last one too, all the time.
        const bool is_killed = point != "worker.watches";
        ask_for_fault(mount, point + " die");
        if (is_killed) worker.kill();
        CHECK(difference(mapping.bytes(), padded(pattern(0, 20 * page), MiB)) == "");
        CHECK(answer(::mkdir(mount.view(point).c_str(), 0755)) == "0");
        CHECK(worker.ends());
        CHECK_MESSAGE(replacements.are(is_killed ? 2 : 1), replacements.log());
        CHECK(S_ISDIR(status(mount.raw(point)).st_mode));
        write_at(raw.get(), 0, point);
        CHECK(eventually([&] { return mapping.bytes(0, 5) == point.substr(0, 5); }));
        write_at(raw.get(), 0, pattern(0, 100));
    }
}

// That happens only while the kernel knows little of the mount.
TEST_CASE("a client does not notice that its server dies when it takes a slot for the first time") {
    // Of a deed, a node and an open file; the slot of the lookup has been used for the directory.
    for (const auto& [name, slots] :
         {std::pair{"mkdir", 2U}, std::pair{"open and read", 2U}, std::pair{"create", 3U}}) {
        const Operation operation = operation_on_names(name);
        CAPTURE(operation.name);
        std::string said;
        std::string raw;
        for (unsigned left = slots + 1; left-- > 0;) {
            const bool dies = left < slots;  // at first it does not
            CAPTURE(left);
            const ViewMount mount({"max_size=1M", "engine=cache"});
            Place place(mount, "directory");
            operation.prepare(place);
            const Replacements replacements(mount);
            const Worker worker(mount);
            if (dies) ask_for_fault(mount, fmt::format("slot.taken die {}", left));
            const std::string said_now = operation.act(place);
            if (dies) CHECK_MESSAGE(worker.ends(milliseconds(3000)), "so many slots are not taken");
            if (!dies) said = said_now;
            if (!dies) raw = tree(mount.source());
            CHECK(difference(said_now, said) == "");
            CHECK(tree(mount.source()) == raw);
            CHECK(tree(mount.mountpoint()) == raw);
            CHECK_MESSAGE(replacements.are(dies ? 1 : 0), replacements.log());
        }
    }
}

// What somebody else does in the source before the operation is done at last shows in its result.
TEST_CASE("an operation that the dead server had not begun fails where it cannot be done any more") {
    struct Case {
        std::string operation;
        std::string request;
        void (*meanwhile)(const Place& place);
        std::string wanted;
    };
    const auto make_new = [](const Place& place) { must(::mkdir((place.raw + "/new").c_str(), 0700), "mkdir"); };
    const auto remove_file = [](const Place& place) { must(::unlink((place.raw + "/file").c_str()), "unlink"); };
    const std::vector<Case> cases = {
        {"mkdir", "MKDIR", make_new, "EEXIST"},
        {"create with O_EXCL", "CREATE", make_new, "EEXIST"},
        {"create", "CREATE", make_new, "EISDIR"},
        {"mknod of a fifo", "MKNOD", make_new, "EEXIST"},
        {"symlink", "SYMLINK", make_new, "EEXIST"},
        {"link", "LINK", make_new, "EEXIST"},
        {"unlink", "UNLINK", remove_file, "ENOENT"},
        {"rmdir", "RMDIR", [](const Place& place) { make_file(place.raw + "/directory/file"); }, "ENOTEMPTY"},
        {"rename", "RENAME", remove_file, "ENOENT"},
        {"rename with RENAME_NOREPLACE", "RENAME", make_new, "EEXIST"},
        {"rename with RENAME_EXCHANGE", "RENAME", remove_file, "ENOENT"},
    };
    const ViewMount mount({"max_size=1M", "engine=cache"});
    for (const Case& each : cases) {
        CAPTURE(each.operation);
        const Operation operation = operation_on_names(each.operation);
        Place place(mount, each.operation);
        operation.prepare(place);
        const GrowsUp grows_up;
        const Worker worker(mount);
        ask_for_fault(mount, "request." + each.request + " hang");
        auto said = std::async(std::launch::async, [&] { return operation.act(place); });
        CHECK(eventually([&] { return worker.hangs(); }));
        each.meanwhile(place);
        const std::string wanted = tree(place.raw);
        worker.kill();
        CHECK(said.get() == each.wanted);
        CHECK(tree(place.raw) == wanted);
    }
}

TEST_CASE("a server that is killed again and again serves at last, and is started after pauses") {
    const ViewMount mount({"max_size=1M", "engine=cache"});
    const UniqueFd raw = make_file(mount.raw("file"), pattern(0, 50 * page));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    Appending appending(mount.view("log"));
    std::set<pid_t> killed;
    const auto pauses = [&] { return count_of(mount.errors(), ", after a pause of "); };
    // A pause needs some deaths in a row that came soon, which is up to the machine.
    for (int round = 0; round < 3 || (round < 10 && pauses() == 0); ++round) {
        CAPTURE(round);
        const Mapping mapping(view.get(), MiB);
        const unsigned records = appending.records();
        REQUIRE(kill_each_new_worker(mount, 1, killed));
        auto loaded = std::async(std::launch::async, [&] { return mapping.bytes(); });
        REQUIRE(kill_each_new_worker(mount, 11, killed));
        CHECK(difference(loaded.get(), padded(pattern(0, 50 * page), MiB)) == "");
        CHECK(eventually([&] { return appending.records() > records + 10; }));
        CHECK(restarts(mount) >= killed.size());
    }
    appending.end();
    CHECK(appending.failures() == 0);
    CHECK(difference(read_all(mount.raw("log")), appending.all()) == "");
    const std::size_t deaths = count_of(mount.errors(), "was killed by signal 9 (Killed)");
    CHECK(deaths > 0);
    CHECK(pauses() > 0);
    MESSAGE(killed.size(), " kills: ", deaths, " deaths in the log, ", pauses(), " pauses, ", restarts(mount),
            " restarts counted");
}

TEST_SUITE_END();
