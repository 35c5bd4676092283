
#include <cstdlib>

#include "tests/mount/kernel.h"
#include "tests/mount/storm_lives.h"

namespace nosigbus::test {
namespace {

using namespace std::chrono_literals;

// A length up to `limit`, mostly a small one.
std::size_t some_length(Random& random, std::size_t limit) {
    const std::size_t limits[] = {300, 300, 3 * page, 3 * page, 16 * page, limit};
    return 1 + below(random, std::min(limit, limits[below(random, std::size(limits))]));
}

void write_all(Diary& diary, const UniqueFd& view, std::size_t offset, const std::string& bytes) {
    const auto written = diary.must(
        "pwrite", [&] { return ::pwrite(view.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset)); });
    expect("pwrite", static_cast<std::size_t>(written), bytes.size());
}

std::string read_back(Diary& diary, const UniqueFd& view, std::size_t offset, std::size_t length) {
    std::string bytes(length, '\0');
    const auto read =
        diary.must("pread", [&] { return ::pread(view.get(), bytes.data(), length, static_cast<off_t>(offset)); });
    bytes.resize(static_cast<std::size_t>(read));
    return bytes;
}

// What a file must hold after all that was done to it.
class Model {
  public:
    explicit Model(std::string content) : content_(std::move(content)) {}

    void write(std::size_t offset, const std::string& bytes) {
        content_.resize(std::max(content_.size(), offset + bytes.size()));
        content_.replace(offset, bytes.size(), bytes);
    }
    void punch(std::size_t offset, std::size_t length) {
        if (offset >= content_.size()) return;
        length = std::min(length, content_.size() - offset);
        content_.replace(offset, length, length, '\0');
    }
    void resize(std::size_t size) { content_.resize(size); }

    [[nodiscard]] const std::string& content() const { return content_; }
    [[nodiscard]] std::size_t size() const { return content_.size(); }

  private:
    std::string content_;
};

}  // namespace

void write_everywhere(Diary& diary, const ViewMount& mount, unsigned number) {
    constexpr std::size_t limit = 512 * KiB;
    const std::string name = fmt::format("written {}", number);
    const std::string origin = fmt::format("origin {}", number);
    const std::string original = pattern(0, limit, number);
    make_file(mount.raw(origin), original);
    const UniqueFd raw = make_file(mount.raw(name), pattern(0, limit / 2));
    const UniqueFd copied = diary.open(mount.view(origin), O_RDONLY);
    const UniqueFd view = diary.open(mount.view(name), O_RDWR);
    Model model(pattern(0, limit / 2));
    Random random(number);
    for (unsigned salt = 1; diary.goes_on(); ++salt) {
        const std::size_t offset = below(random, limit);
        const std::size_t length = some_length(random, limit - offset);
        const auto at = static_cast<off_t>(offset);
        switch (below(random, 12)) {
            case 0:
                diary.must("ftruncate", [&] { return ::ftruncate(view.get(), at); });
                model.resize(offset);
                break;
            case 1:
                diary.must("fallocate", [&] {
                    return ::fallocate(view.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at,
                                       static_cast<off_t>(length));
                });
                model.punch(offset, length);
                break;
            case 2:
                diary.must("fallocate", [&] { return ::fallocate(view.get(), 0, at, static_cast<off_t>(length)); });
                model.resize(std::max(model.size(), offset + length));
                break;
            case 3: {
                off_t from = static_cast<off_t>(below(random, limit - length + 1));
                off_t to = at;
                const std::string bytes = original.substr(static_cast<std::size_t>(from), length);
                const auto count = diary.must("copy_file_range", [&] {
                    return ::copy_file_range(copied.get(), &from, view.get(), &to, length, 0);
                });
                expect("copy_file_range", static_cast<std::size_t>(count), length);
                model.write(offset, bytes);
                break;
            }
            case 4:
                expect_bytes("pread of what was written", read_back(diary, view, 0, limit),
                             kernel_maps_direct_files() ? model.content() : padded(model.content(), limit));
                break;
            default: {
                const std::string bytes = pattern(offset, length, salt);
                write_all(diary, view, offset, bytes);
                model.write(offset, bytes);
            }
        }
        expect_bytes("the file that is written", read_all(raw.get()), model.content());
    }
    diary.must("fsync", [&] { return ::fsync(view.get()); });
    expect_bytes("the file that was written", read_all(raw.get()), model.content());
}

// Even numbers append short records, odd ones such as a kill may well cut.
void append_records(Diary& diary, const ViewMount& mount, unsigned number) {
    constexpr std::size_t most = 8 * MiB;
    const std::size_t size = number % 2 == 0 ? 100 : 5 * page + 1000;
    const std::string name = fmt::format("appended {}", number);
    const UniqueFd raw = make_file(mount.raw(name));
    const UniqueFd view = diary.open(mount.view(name), O_WRONLY | O_APPEND);
    unsigned round = 0;
    const auto record = [&](std::size_t index) {
        return fmt::format("{:06} {:012}", round, index) + pattern(index * size, size - 19, round);
    };
    const auto check_all = [&](std::size_t records) {
        std::string wanted;
        for (std::size_t i = 0; i < records; ++i) wanted += record(i);
        expect_bytes("the file of records", read_all(raw.get()), wanted);
    };
    std::size_t records = 0;
    for (; diary.goes_on(); ++records) {
        if (records * size > most) {
            check_all(records);
            diary.must("ftruncate", [&] { return ::ftruncate(view.get(), 0); });
            expect("the size after ftruncate", size_of(raw.get()), std::size_t{0});
            records = 0;
            ++round;
        }
        const std::string bytes = record(records);
        const auto written = diary.must("append", [&] { return ::write(view.get(), bytes.data(), bytes.size()); });
        expect("append", static_cast<std::size_t>(written), bytes.size());
        expect("the size after an append", size_of(raw.get()), (records + 1) * size);
        std::string last(size, '\0');
        must(::pread(raw.get(), last.data(), size, static_cast<off_t>(records * size)), "pread of the file");
        expect_bytes("the record appended", last, bytes);
    }
    check_all(records);
}

void store_everywhere(Diary& diary, const ViewMount& mount, unsigned number) {
    constexpr std::size_t length = 256 * KiB;
    const std::string name = fmt::format("stored {}", number);
    Model model(pattern(0, length));
    const UniqueFd raw = make_file(mount.raw(name), model.content());
    const UniqueFd view = diary.open(mount.view(name), O_RDWR);
    const Mapping mapping(view.get(), storm_max_size, PROT_READ | PROT_WRITE);
    Random random(number);
    for (unsigned salt = 1; diary.goes_on(); ++salt) {
        for (std::size_t stores = 1 + below(random, 5); stores > 0; --stores) {
            const std::size_t offset = below(random, length);
            const std::string bytes = pattern(offset, some_length(random, length - offset), salt);
            diary.store(mapping, offset, bytes);
            model.write(offset, bytes);
        }
        if (salt % 3 == 0) {
            diary.must("fsync", [&] { return ::fsync(view.get()); });
        } else {
            diary.must("msync", [&] { return mapping.sync(); });
        }
        expect_bytes("the file after msync", read_all(raw.get()), model.content());
        if (salt % 8 != 0) continue;
        must(::madvise(mapping.data(), mapping.size(), MADV_DONTNEED), "madvise");
        ::posix_fadvise(view.get(), 0, 0, POSIX_FADV_DONTNEED);
        expect_bytes("what was stored", diary.load(mapping, 0, length), model.content());
    }
}

// Each file outgrows its view a few times, by writes through it and beside it. Then the next file has its turn.
void outgrow_views(Diary& diary, const ViewMount& mount, unsigned number) {
    constexpr std::size_t steps = 4;
    Random random(number);
    for (unsigned turn = 0; diary.goes_on(); ++turn) {
        const std::string name = fmt::format("grown {} {}", number, turn);
        const UniqueFd view = diary.open(mount.view(name), O_RDWR | O_CREAT | O_EXCL);
        const UniqueFd raw = open_file(mount.raw(name), O_RDWR);
        const Mapping mapping(view.get(), steps * storm_max_size);
        const Mapping copying(view.get(), steps * storm_max_size, PROT_READ, MAP_PRIVATE);
        for (std::size_t step = 1; step < steps; ++step) {
            const std::size_t offset = step * storm_max_size + below(random, storm_max_size);
            const bool beside = below(random, 3) == 0;
            diary.about(fmt::format("{}, written {} at {}", name, beside ? "beside the mount" : "through it", offset));
            if (beside) {
                write_at(raw.get(), offset, "x");
                diary.must("fsync", [&] { return ::fsync(view.get()); });
            } else {
                write_all(diary, view, offset, "x");
            }
            const auto check_page = [&](std::size_t at) {
                std::string wanted(page, '\0');
                if (at / page == offset / page) wanted[offset % page] = 'x';
                expect_bytes("a view that grew", diary.load(step % 2 == 0 ? mapping : copying, at / page * page, page),
                             wanted);
            };
            check_page(offset);
            check_page(0);
            // Whoever is told a size can load so far.
            struct stat told {};
            diary.must("fstat", [&] { return ::fstat(view.get(), &told); });
            expect("the size of the view", static_cast<std::size_t>(told.st_size), (step + 1) * storm_max_size);
            check_page(step * storm_max_size);
            check_page((step + 1) * storm_max_size - 1);
            expect("the size of the file", size_of(raw.get()), offset + 1);
        }
        diary.must("unlink", [&] { return ::unlink(mount.view(name).c_str()); });
    }
}

// Files that lose their only name at once, and are used while their server is killed.
void use_nameless_files(Diary& diary, const ViewMount& mount, unsigned number) {
    const std::string name = fmt::format("nameless {}", number);
    Random random(number);
    for (unsigned salt = 1; diary.goes_on(); ++salt) {
        const UniqueFd view = diary.open(mount.view(name), O_RDWR | O_CREAT | O_EXCL);
        const Mapping mapping(view.get(), MiB, PROT_READ | PROT_WRITE);
        diary.must("unlink", [&] { return ::unlink(mount.view(name).c_str()); });
        Model model("");
        for (int i = 0; i < 5; ++i) {
            const std::size_t offset = below(random, 5 * page);
            const std::string bytes = pattern(offset, some_length(random, 5 * page), salt);
            write_all(diary, view, offset, bytes);
            model.write(offset, bytes);
            nap(random, 40ms);
            expect_bytes("what was written", diary.load(mapping, 0, 12 * page), padded(model.content(), 12 * page));
            diary.store(mapping, offset, "stored");
            model.write(offset, std::string("stored").substr(0, model.size() - offset));
            diary.must("fsync", [&] { return ::fsync(view.get()); });
            expect_bytes("a nameless file", read_back(diary, view, 0, model.size()), model.content());
            struct stat found {};
            diary.must("fstat", [&] { return ::fstat(view.get(), &found); });
            expect("links of a nameless file", static_cast<int>(found.st_nlink), 0);
        }
    }
}

}  // namespace nosigbus::test
