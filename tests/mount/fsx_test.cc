// A file in the mount and a twin on the plain tmpfs, to which the same is done at random: they stay the same.
// NOSIGBUS_STORM_SECONDS says for how long, else it is a number of operations; NOSIGBUS_STORM_SEED repeats a run.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/uio.h>

#include <deque>
#include <functional>
#include <optional>
#include <random>

#include "tests/mount/eventually.h"
#include "tests/mount/files.h"
#include "tests/mount/kernel.h"
#include "tests/mount/mapping.h"
#include "tests/mount/storm.h"
#include "tests/mount/trials.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr int operations = 1500;
constexpr std::size_t largest = 300 * KiB;
constexpr std::size_t view_step = 64 * KiB;  // max_size: views grow while the file does
constexpr std::size_t mapped = 384 * KiB;

using Random = std::mt19937;

// One of the two files, and what it is done with.
struct Twin {
    std::string path;
    UniqueFd file;
    UniqueFd other;   // another open file description of it, which appends
    UniqueFd source;  // a second file, to copy from

    void open(int flags = 0) {
        file = open_file(path, O_RDWR | O_CREAT | flags);
        other = open_file(path, O_RDWR | O_APPEND);
    }
};

struct Kind {
    std::vector<std::string> options;
    bool syncing = true;                          // who has stored in a mapping calls msync(2)
    bool reads_end = kernel_maps_direct_files();  // where the file does; else they go on in zeros, and what is done
                                                  // shows soon, not at once
};

// What is to be done, decided once for both.
struct Operation {
    std::string name;
    std::function<std::string(Twin&)> run;
};

class Operations {
  public:
    Operations(unsigned seed, const Kind& kind) : random_(seed), kind_(kind) {}

    // Anything, for files that are `size` bytes long now.
    Operation next(std::size_t size) {
        switch (below(20)) {
            case 0:
            case 1:
            case 2:
                return write(below(std::min(size + 5000, largest)));
            case 3:
                return write_pages(below(largest / page));
            case 4:
                return append();
            case 5:
                return read(below(largest));
            case 6:
                return truncate(below(largest));
            case 7:
                return truncate(size == 0 ? 0 : size - below(std::min(size, 3 * page)));
            case 8:
                return fallocate("fallocate", 0);
            case 9:
                return fallocate("fallocate keeping the size", FALLOC_FL_KEEP_SIZE);
            case 10:
            case 11:
                return fallocate("punch", FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE);
            case 12:
                return fallocate("zero", FALLOC_FL_ZERO_RANGE);
            case 13:
            case 14:
                return store(size);
            case 15:
                return copy();
            case 16:
                return copy_within(size);
            case 17:
                return reopen();
            case 18:
                return seek();
            default:
                return sync();
        }
    }

    std::size_t below(std::size_t end) {
        return end == 0 ? 0 : std::uniform_int_distribution(std::size_t{0}, end - 1)(random_);
    }

  private:
    std::string bytes(std::size_t offset, std::size_t length) { return pattern(offset, length, ++salt_); }

    Operation write(std::size_t offset) {
        const std::string news = bytes(offset, 1 + below(20000));
        return {fmt::format("pwrite {}+{}", offset, news.size()), [=](Twin& twin) {
                    return answer(::pwrite(twin.file.get(), news.data(), news.size(), static_cast<off_t>(offset)));
                }};
    }

    Operation write_pages(std::size_t first) {
        const std::string news = bytes(first * page, page * (1 + below(8)));
        return {fmt::format("pwritev of pages {}+{}", first, news.size() / page), [=](Twin& twin) {
                    std::string copy = news;
                    const std::size_t half = copy.size() / 2 + 7;
                    const iovec parts[] = {{copy.data(), half}, {copy.data() + half, copy.size() - half}};
                    return answer(::pwritev(twin.file.get(), parts, 2, static_cast<off_t>(first * page)));
                }};
    }

    Operation append() {
        const std::string news = bytes(0, 1 + below(3000));
        return {fmt::format("append {}", news.size()), [=](Twin& twin) {
                    // Truncated first where it has become too large.
                    if (size_of(twin.file.get()) + news.size() > largest) resize(twin.file.get(), page + 5);
                    return answer(::write(twin.other.get(), news.data(), news.size()));
                }};
    }

    Operation read(std::size_t offset) {
        const std::size_t length = 1 + below(50000);
        return {fmt::format("pread {}+{}", offset, length), [=, reads_end = kind_.reads_end](Twin& twin) {
                    std::string content(length, '\0');
                    const ssize_t got = ::pread(twin.file.get(), content.data(), length, static_cast<off_t>(offset));
                    return fmt::format("{} {:x}", reads_end ? got : 0, std::hash<std::string>()(content));
                }};
    }

    Operation truncate(std::size_t size) {
        const bool by_name = below(2) == 0;
        return {fmt::format("{} {}", by_name ? "truncate" : "ftruncate", size), [=](Twin& twin) {
                    const auto to = static_cast<off_t>(size);
                    return answer(by_name ? ::truncate(twin.path.c_str(), to) : ::ftruncate(twin.file.get(), to));
                }};
    }

    Operation fallocate(const std::string& name, int mode) {
        const auto offset = static_cast<off_t>(below(2) == 0 ? below(largest) : page * below(largest / page));
        const auto length = static_cast<off_t>(1 + below(largest - static_cast<std::size_t>(offset)));
        return {fmt::format("{} {}+{}", name, offset, length),
                [=](Twin& twin) { return answer(::fallocate(twin.file.get(), mode, offset, length)); }};
    }

    // Stores inside the file, in a mapping that lasts for this alone.
    Operation store(std::size_t size) {
        const std::size_t offset = below(size);
        const std::string news = bytes(offset, std::min(1 + below(20000), size - offset));
        return {fmt::format("store {}+{}", offset, news.size()), [=, syncing = kind_.syncing](Twin& twin) {
                    if (news.empty()) return std::string("nothing");
                    const Mapping mapping(twin.file.get(), mapped, PROT_READ | PROT_WRITE);
                    return in_turn(
                        {std::to_string(mapping.store(offset, news)), std::to_string(syncing ? mapping.sync() : 0)});
                }};
    }

    Operation copy() {
        const std::size_t from = below(100 * KiB);
        const std::size_t to = below(largest / 2);
        const std::size_t length = below(100 * KiB);
        return {fmt::format("copy {}+{} to {}", from, length, to), [=](Twin& twin) {
                    auto from_offset = static_cast<off_t>(from);
                    auto to_offset = static_cast<off_t>(to);
                    return answer(
                        ::copy_file_range(twin.source.get(), &from_offset, twin.file.get(), &to_offset, length, 0));
                }};
    }

    // Not past the end: there the kernel takes ranges of a view to overlap that do not (suite posix).
    Operation copy_within(std::size_t size) {
        const std::size_t from = below(size);
        const std::size_t to = below(largest - 50 * KiB);
        const std::size_t length = below(std::min(50 * KiB, size - from + 1));
        return {fmt::format("copy within {}+{} to {}", from, length, to), [=](Twin& twin) {
                    auto from_offset = static_cast<off_t>(from);
                    auto to_offset = static_cast<off_t>(to);
                    return answer(
                        ::copy_file_range(twin.other.get(), &from_offset, twin.file.get(), &to_offset, length, 0));
                }};
    }

    Operation reopen() {
        const int flags = below(8) == 0 ? O_TRUNC : 0;
        return {flags != 0 ? "reopen with O_TRUNC" : "reopen", [=](Twin& twin) {
                    twin.file.reset();
                    twin.other.reset();
                    twin.open(flags);
                    return std::string();
                }};
    }

    Operation seek() {
        const auto offset = static_cast<off_t>(below(largest));
        return {fmt::format("seek from {}", offset), [=](Twin& twin) {
                    return in_turn({answer(::lseek(twin.file.get(), offset, SEEK_DATA)),
                                    answer(::lseek(twin.file.get(), offset, SEEK_HOLE))});
                }};
    }

    Operation sync() {
        const bool data_only = below(2) == 0;
        return {data_only ? "fdatasync" : "fsync", [=](Twin& twin) {
                    return answer(data_only ? ::fdatasync(twin.file.get()) : ::fsync(twin.file.get()));
                }};
    }

    Random random_;
    Kind kind_;
    unsigned salt_ = 0;
};

class Comparison {
  public:
    Comparison(const Parity& parity, bool reads_end) : raw_(parity.mount().raw("file")), reads_end_(reads_end) {
        for (auto* const twin : {&plain_, &view_}) {
            const std::string& top = twin == &plain_ ? parity.mount().plain() : parity.mount().mountpoint();
            twin->path = top + "/file";
            twin->source = make_file(top + "/source", pattern(0, 100 * KiB, 99));
            twin->open();
        }
        map_anew();
    }

    [[nodiscard]] std::size_t size() const { return size_of(plain_.file.get()); }

    // Lets go of the mapping of the view: the next one begins with the view as it is now.
    void map_anew() { mapping_.emplace(view_.file.get(), mapped); }

    // What is wrong after `operation`; empty where nothing is.
    std::string after(const Operation& operation) {
        const std::string wanted = operation.run(plain_);
        const std::string got = operation.run(view_);
        if (got != wanted) return fmt::format("the mount says {}, a plain file {}", got, wanted);
        const std::string content = read_small(plain_.file.get());
        largest_so_far_ = std::max(largest_so_far_, content.size());
        if (size_of(view_.file.get()) != content.size())
            return fmt::format("size {} where {} should be", size_of(view_.file.get()), content.size());
        if (std::string wrong = difference(read_small(open_file(raw_, O_RDONLY).get()), content); !wrong.empty())
            return "the source: " + wrong;
        std::string wrong = seen_otherwise(content);
        if (!wrong.empty() && !reads_end_) {
            eventually([&] {
                wrong = seen_otherwise(content);
                return wrong.empty();
            });
        }
        return wrong;
    }

  private:
    // How what is seen through the mount differs from `content`.
    std::string seen_otherwise(const std::string& content) {
        std::string seen = read_small(view_.file.get());
        if (!reads_end_) seen.resize(content.size());
        if (std::string wrong = difference(seen, content); !wrong.empty()) return "read: " + wrong;
        // The mapping has been there since long before: what is done through the mount shows in it at once.
        const std::size_t reach = std::max<std::size_t>(1, (largest_so_far_ + view_step - 1) / view_step) * view_step;
        std::string wrong = difference(mapping_->bytes(0, reach), padded(content, reach));
        return wrong.empty() ? wrong : "the mapping: " + wrong;
    }

    static std::string read_small(int fd) {
        std::string content(largest + 100 * KiB, '\0');
        const auto got = must(::pread(fd, content.data(), content.size(), 0), "pread");
        content.resize(static_cast<std::size_t>(got));
        return content;
    }

    std::string raw_;
    bool reads_end_;
    Twin plain_;
    Twin view_;
    std::optional<Mapping> mapping_;
    std::size_t largest_so_far_ = 0;
};

unsigned storm_seed() {
    const char* seed = std::getenv("NOSIGBUS_STORM_SEED");
    return seed != nullptr ? static_cast<unsigned>(std::strtoul(seed, nullptr, 10)) : std::random_device{}();
}

void storm(const Kind& kind) {
    const unsigned seed = storm_seed();
    MESSAGE("seed ", seed);
    const Parity parity(kind.options);
    Comparison comparison(parity, kind.reads_end);
    Operations all(seed, kind);
    std::deque<std::string> last;
    const bool is_long = std::getenv("NOSIGBUS_STORM_SECONDS") != nullptr;
    const auto end = std::chrono::steady_clock::now() + storm_duration(std::chrono::seconds(0));
    for (int i = 0; is_long ? std::chrono::steady_clock::now() < end : i < operations; ++i) {
        const Operation operation = all.next(comparison.size());
        last.push_back(operation.name);
        if (last.size() > 12) last.pop_front();
        const std::string wrong = comparison.after(operation);
        REQUIRE_MESSAGE(wrong.empty(), "operation ", i, " of seed ", seed, ": ", wrong,
                        "; the last ones were: ", fmt::format("{}", fmt::join(last, ", ")));
        if (all.below(200) == 0) comparison.map_anew();
    }
}

}  // namespace

TEST_SUITE_BEGIN("fsx");

TEST_CASE("a file in the mount and its plain twin stay the same, whatever is done to both") {
    storm({.options = {"stat=real", "max_size=64K"}});
}

TEST_CASE("they do where nobody calls msync, too") {
    if (!munmap_waits_for_write_back()) {
        MESSAGE("left out, where munmap(2) does not wait for write-back (Linux 6.16)");
        return;
    }
    storm({.options = {"stat=real", "max_size=64K"}, .syncing = false});
}

TEST_CASE("they do as on a kernel before 6.6, where reads go on in zeros") {
    storm({.options = {"stat=real", "max_size=64K", "cached_opens"}, .reads_end = false});
}

TEST_SUITE_END();
