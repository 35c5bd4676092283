// stat=real under everything that tells the kernel a size, all at once. The sizes in the kernel are view sizes, those
// that stat(2) tells are real ones, and neither may ever be taken for the other.
// NOSIGBUS_STORM_SECONDS says for how long; the default is short, 60 is the full form.
#include <dirent.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/xattr.h>

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <random>
#include <thread>

#include "tests/mount/files.h"
#include "tests/mount/loading.h"
#include "tests/mount/mapping.h"
#include "tests/mount/storm.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr std::size_t files = 4;
constexpr std::size_t max_size = 64 * KiB;
constexpr std::size_t largest = 4 * MiB;

// Each size that a file ever has leaves the rest 5 when divided by 16. No size that is told of a view does: they are
// whole pages, or a byte more where the view has just grown.
std::size_t marked(std::size_t size) {
    return size / 16 * 16 + 5;
}

using Random = std::mt19937;

std::size_t below(Random& random, std::size_t limit) {
    return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random);
}

class StatStorm {
  public:
    explicit StatStorm(const ViewMount& mount) : mount_(mount) {
        for (std::size_t i = 0; i < files; ++i) make_file(mount.raw(name(i)), pattern(0, marked(1000)));
    }

    static std::string name(std::size_t file) { return fmt::format("file {}", file); }

    // All that goes on at once, again and again. Each turn is of one random file.
    void look(Random& random) {
        const std::string path = mount_.view(any_file(random));
        note_size(size_of(path));
        struct stat found {};
        must(::stat(path.c_str(), &found), "stat");
        note_size(static_cast<std::size_t>(found.st_size));
    }
    void look_at_open_file(Random& random) {
        const UniqueFd view = open_file(mount_.view(any_file(random)), O_RDONLY);
        for (int i = 0; i < 20; ++i) note_size(size_of(view.get()));
    }
    void look_up(Random& random) const { open_file(mount_.view(any_file(random)), O_RDONLY); }
    void list(Random& /*random*/) {
        const std::unique_ptr<DIR, int (*)(DIR*)> directory(must_open(mount_.mountpoint()), ::closedir);
        std::size_t listed = 0;
        while (const dirent* entry = ::readdir(directory.get())) {
            if (entry->d_type != DT_REG) continue;
            struct stat found {};
            must(::fstatat(::dirfd(directory.get()), entry->d_name, &found, 0), "fstatat");
            note_size(static_cast<std::size_t>(found.st_size));
            ++listed;
        }
        if (listed != files) ++wrong_lists_;
    }
    void set_attributes(Random& random) const {
        const std::string path = mount_.view(file_with_setattr(random));
        must(::chmod(path.c_str(), below(random, 2) == 0 ? 0644 : 0600), "chmod");
        must(::utimensat(AT_FDCWD, path.c_str(), nullptr, 0), "utimensat");
        must(::futimens(open_file(path, O_RDWR).get(), nullptr), "futimens");
    }
    void write_to_view(Random& random) {
        change(random, open_file(mount_.view(file_with_setattr(random)), O_RDWR));
        write(random, open_file(mount_.view(any_file(random)), O_RDWR));
    }
    void write_to_raw(Random& random) { change(random, open_file(mount_.raw(any_file(random)), O_RDWR)); }

    // Maps what the view is said to be, and loads all of it while the others go on.
    void map(Random& random) {
        const UniqueFd view = open_file(mount_.view(any_file(random)), O_RDONLY);
        std::array<char, 32> text{};
        must(::fgetxattr(view.get(), "user.nosigbus.view_size", text.data(), text.size() - 1), "fgetxattr");
        const std::size_t length = std::stoul(text.data());
        const Mapping mapping(view.get(), length, PROT_READ, below(random, 2) == 0 ? MAP_SHARED : MAP_PRIVATE);
        for (int i = 0; i < 5; ++i) {
            if (mapping.touch() < length / page) ++faults_;
        }
        if (length > max_size) ++large_views_;
    }

    // The sizes that files may have from now on.
    void set_ceiling(std::size_t size) { ceiling_ = size; }

    [[nodiscard]] long faults() const { return faults_; }
    [[nodiscard]] long large_views() const { return large_views_; }
    [[nodiscard]] long sizes() const { return sizes_; }
    [[nodiscard]] long wrong_lists() const { return wrong_lists_; }
    [[nodiscard]] long wrong_sizes() const { return wrong_sizes_; }
    [[nodiscard]] std::size_t wrong_size() const { return wrong_size_; }

  private:
    static std::string any_file(Random& random) { return name(below(random, files)); }

    // SETATTR leaves the kernel with a size far beyond the view until the next lookup, which would hide one that is too
    // small. So half of the files know none.
    static std::string file_with_setattr(Random& random) { return name(files / 2 + below(random, files / 2)); }

    static DIR* must_open(const std::string& path) {
        DIR* directory = ::opendir(path.c_str());
        if (directory == nullptr) throw std::system_error(errno, std::generic_category(), "opendir");
        return directory;
    }

    void note_size(std::size_t size) {
        ++sizes_;
        if (size == marked(size) && size <= ceiling_) return;
        wrong_size_ = size;
        ++wrong_sizes_;
    }

    void change(Random& random, const UniqueFd& file) const {
        switch (below(random, 4)) {
            case 0:
                resize(file.get(), marked(below(random, ceiling_ - 16)));
                break;
            case 1:
                punch(file.get(), below(random, ceiling_), 1 + below(random, 3 * page));
                break;
            default:
                write(random, file);
        }
    }

    // Inside one page: write(2) grows a file page by page, and stat may see it between two.
    void write(Random& random, const UniqueFd& file) const {
        const std::size_t size = marked(below(random, ceiling_ - 16));
        const std::size_t offset = size - 1 - below(random, std::min(size, size % page));
        write_at(file.get(), offset, pattern(offset, size - offset));
    }

    const ViewMount& mount_;
    std::atomic<std::size_t> ceiling_ = max_size;
    std::atomic<long> faults_ = 0;
    std::atomic<long> large_views_ = 0;
    std::atomic<long> sizes_ = 0;
    std::atomic<long> wrong_lists_ = 0;
    std::atomic<long> wrong_sizes_ = 0;
    std::atomic<std::size_t> wrong_size_ = 0;
};

// A thread that takes turns until the end. An exception ends it, and is kept.
class Turns {
  public:
    using Turn = std::function<void(Random&)>;

    Turns(std::string what, unsigned seed, Turn turn)
        : what_(std::move(what)), thread_([this, seed, turn = std::move(turn)] {
              Random random(seed);
              try {
                  while (!over_) {
                      turn(random);
                      ++taken_;
                  }
              } catch (const std::exception& failure) {
                  failure_ = failure.what();
              }
          }) {}
    Turns(const Turns&) = delete;
    Turns& operator=(const Turns&) = delete;
    ~Turns() {
        over_ = true;
        thread_.join();
        CAPTURE(what_);
        CHECK(failure_ == "");
        CHECK(taken_ > 0);
    }

  private:
    std::string what_;
    std::string failure_;
    std::atomic<bool> over_ = false;
    std::atomic<long> taken_ = 0;
    std::thread thread_;
};

}  // namespace

TEST_SUITE_BEGIN("storm");

TEST_CASE("with stat=real no load faults and no size is a view's, whatever tells the kernel sizes at the same time") {
    const ViewMount mount({fmt::format("max_size={}K", max_size / KiB), "stat=real"});
    StatStorm storm(mount);
    const UniqueFd view = open_file(mount.view(StatStorm::name(0)), O_RDONLY);
    const Mapping mapping(view.get(), max_size);
    {
        const Loading loading(mapping);
        const std::pair<const char*, void (StatStorm::*)(Random&)> changing[] = {
            {"stat", &StatStorm::look},
            {"fstat", &StatStorm::look_at_open_file},
            {"readdir", &StatStorm::list},
            {"write to views", &StatStorm::write_to_view},
            {"write to files", &StatStorm::write_to_raw},
            {"mmap", &StatStorm::map},
            {"mmap again", &StatStorm::map},
        };
        std::vector<std::unique_ptr<Turns>> all;
        unsigned seed = 1;
        for (const auto& one : changing) {
            all.push_back(std::make_unique<Turns>(
                one.first, ++seed, [&storm, turn = one.second](Random& random) { (storm.*turn)(random); }));
        }
        all.push_back(std::make_unique<Turns>("open", ++seed, [&](Random& random) { storm.look_up(random); }));
        all.push_back(
            std::make_unique<Turns>("setattr", ++seed, [&](Random& random) { storm.set_attributes(random); }));
        // The files outgrow their views step by step.
        const auto duration = std::chrono::duration<double>(storm_duration(std::chrono::seconds(4)));
        const auto start = std::chrono::steady_clock::now();
        eventually(
            [&] {
                const double age = (std::chrono::steady_clock::now() - start) / duration;
                const auto grown = static_cast<std::size_t>(age * static_cast<double>(largest - max_size));
                storm.set_ceiling(max_size + std::min(grown, largest - max_size));
                return age >= 1;
            },
            std::chrono::hours(24));
        CHECK(loading.goes_round());
        CHECK(loading.faults() == 0);
    }
    CAPTURE(storm.wrong_size());
    CHECK(storm.faults() == 0);
    CHECK(storm.wrong_sizes() == 0);
    CHECK(storm.wrong_lists() == 0);
    CHECK(storm.sizes() > 100);
    CHECK(storm.large_views() > 0);
    MESSAGE(storm.sizes(), " sizes, ", storm.large_views(), " mappings of views that had grown");
    for (std::size_t i = 0; i < files; ++i) {
        const std::string content = read_all(mount.raw(StatStorm::name(i)));
        const UniqueFd now = open_file(mount.view(StatStorm::name(i)), O_RDONLY);
        const Mapping all(now.get(), content.size());
        CHECK(size_of(now.get()) == content.size());
        CHECK(eventually([&] { return all.bytes() == content; }));
    }
}

TEST_SUITE_END();
