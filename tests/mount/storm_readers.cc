
#include <atomic>
#include <cstring>
#include <mutex>

#include "tests/mount/kernel.h"
#include "tests/mount/storm_lives.h"

namespace nosigbus::test {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t fixed_size = MiB + 1234;

// Takes the pages of a view out of the page cache, as far as nobody else has them mapped.
void forget_pages(const UniqueFd& view, const Mapping& one, const Mapping& other) {
    for (const Mapping* mapping : {&one, &other}) {
        must(::madvise(mapping->data(), mapping->size(), MADV_DONTNEED), "madvise");
    }
    if (const int error = ::posix_fadvise(view.get(), 0, 0, POSIX_FADV_DONTNEED); error != 0)
        throw std::system_error(error, std::generic_category(), "posix_fadvise");
}

}  // namespace

void load_everywhere(Diary& diary, const ViewMount& mount, unsigned number) {
    constexpr int rounds = 64;
    constexpr int loads = 16;
    const std::string name = fmt::format("loaded {}", number);
    make_file(mount.raw(name), pattern(0, fixed_size, number));
    const std::string wanted = padded(pattern(0, fixed_size, number), storm_max_size);
    Random random(number);
    while (!diary.is_over()) {
        const UniqueFd view = diary.open(mount.view(name), O_RDONLY);
        const Mapping shared(view.get(), storm_max_size);
        const Mapping copying(view.get(), storm_max_size, PROT_READ, MAP_PRIVATE);
        for (int round = 0; round < rounds && diary.goes_on(); ++round) {
            forget_pages(view, shared, copying);
            const int advice = round % 4 == 0 ? MADV_NORMAL : MADV_RANDOM;  // with readahead, and without
            for (const Mapping* mapping : {&shared, &copying}) {
                must(::madvise(mapping->data(), mapping->size(), advice), "madvise");
            }
            for (int i = 0; i < loads; ++i) {
                const std::size_t limit = below(random, 2) == 0 ? fixed_size : storm_max_size;
                const std::size_t at = below(random, limit) / page * page;
                const Mapping& mapping = below(random, 2) == 0 ? shared : copying;
                expect_bytes("a load", diary.load(mapping, at, page), wanted.substr(at, page));
            }
        }
    }
}

void read_everywhere(Diary& diary, const ViewMount& mount, unsigned number) {
    const std::string name = fmt::format("read {}", number);
    const std::string content = pattern(0, fixed_size, number);
    make_file(mount.raw(name), content);
    std::string wanted;
    const auto from = [&](std::size_t offset, std::size_t length) {
        return offset < wanted.size() ? wanted.substr(offset, length) : std::string();
    };
    Random random(number);
    std::string buffer;
    while (diary.goes_on()) {
        const int direct = below(random, 2) == 0 ? O_DIRECT : 0;
        wanted = kernel_maps_direct_files() || direct != 0 ? content : padded(content, storm_max_size);
        const UniqueFd view = diary.open(mount.view(name), O_RDONLY | direct);
        for (int i = 0; i < 50; ++i) {
            const std::size_t offset = below(random, wanted.size() + 3 * page);
            buffer.resize(1 + below(random, i == 0 ? 2 * MiB : 64 * KiB));
            const auto read = diary.must(
                "pread", [&] { return ::pread(view.get(), buffer.data(), buffer.size(), static_cast<off_t>(offset)); });
            expect_bytes("pread", buffer.substr(0, static_cast<std::size_t>(read)), from(offset, buffer.size()));
        }
        buffer.resize(1 + below(random, 300 * KiB));
        for (std::size_t position = 0;;) {
            const auto read = diary.must("read", [&] { return ::read(view.get(), buffer.data(), buffer.size()); });
            expect_bytes("read", buffer.substr(0, static_cast<std::size_t>(read)), from(position, buffer.size()));
            position += static_cast<std::size_t>(read);
            if (read == 0) break;
        }
    }
}

void follow_generations(Diary& diary, const ViewMount& mount, unsigned number) {
    using Generation = std::uint32_t;
    constexpr std::size_t pages = 32;
    const std::size_t words = page / sizeof(Generation);
    const std::string name = fmt::format("generations {}", number);
    const UniqueFd raw = make_file(mount.raw(name), std::string(pages * page, '\0'));
    std::atomic<Generation> published = 0;
    Random pauses(number);
    const Beside writer([&] {
        const Generation next = published + 1;
        std::vector<Generation> content(words, next);
        const std::string bytes(reinterpret_cast<const char*>(content.data()), page);
        for (std::size_t i = 0; i < pages; ++i) write_at(raw.get(), i * page, bytes);
        published = next;
        nap(pauses, 2ms);
    });
    const UniqueFd view = diary.open(mount.view(name), O_RDONLY);
    const Mapping shared(view.get(), storm_max_size);
    const Mapping copying(view.get(), storm_max_size, PROT_READ, MAP_PRIVATE);
    for (unsigned round = 0; diary.goes_on(); ++round) {
        writer.check();
        const Generation least = published;
        diary.must("fsync", [&] { return round % 2 == 0 ? ::fsync(view.get()) : ::fdatasync(view.get()); });
        const std::string bytes = diary.load(round % 4 < 2 ? shared : copying, 0, pages * page);
        for (std::size_t i = 0; i < pages * words; ++i) {
            Generation found = 0;
            std::memcpy(&found, &bytes[i * sizeof found], sizeof found);
            if (found < least)
                throw std::runtime_error(fmt::format(
                    "after fsync, generation {} in page {}, where {} or more should be", found, i / words, least));
        }
    }
}

namespace {

constexpr std::size_t cut_length = 256 * KiB;

// A file that is changed beside the mount. Its bytes say in which page they belong, and which writing they are of.
class CutFile {
  public:
    CutFile(const std::string& path, unsigned seed) : raw_(make_file(path, bytes_at(0, cut_length))), random_(seed) {}

    void change() {
        const std::size_t offset = below(random_, cut_length);
        const std::size_t size = 1 + below(random_, below(random_, 4) == 0 ? cut_length : 3 * page);
        switch (below(random_, 4)) {
            case 0:
                return resize(raw_.get(), offset);
            case 1:
                return punch(raw_.get(), offset, size);
            default:
                return write_at(raw_.get(), offset, bytes_at(offset, std::min(size, cut_length - offset)));
        }
    }

    [[nodiscard]] std::string content() const { return padded(read_all(raw_.get()), cut_length); }

    // Whether the bytes from the beginning of the file may have been there at some time.
    static bool are_plausible(const std::string& bytes) {
        for (std::size_t i = 0; i < bytes.size(); ++i) {
            if (bytes[i] != 0 && static_cast<unsigned char>(bytes[i]) >> 4U != mark_of(i)) return false;
        }
        return true;
    }

  private:
    static unsigned mark_of(std::size_t offset) { return static_cast<unsigned>(1 + offset / page % 15); }

    std::string bytes_at(std::size_t offset, std::size_t size) {
        ++writing_;
        std::string bytes(size, '\0');
        for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(mark_of(offset + i) << 4U | writing_ % 16);
        return bytes;
    }

    unsigned writing_ = 0;
    UniqueFd raw_;
    Random random_;
};

}  // namespace

void follow_cuts(Diary& diary, const ViewMount& mount, unsigned number) {
    const std::string name = fmt::format("cut {}", number);
    CutFile file(mount.raw(name), number);
    std::mutex writing;
    Random pauses(number);
    const Beside writer([&] {
        {
            const std::lock_guard lock(writing);
            file.change();
        }
        nap(pauses, 1ms);
    });
    const bool writes = number % 2 == 1;
    const UniqueFd view = diary.open(mount.view(name), writes ? O_RDWR : O_RDONLY);
    const Mapping shared(view.get(), storm_max_size);
    const Mapping copying(view.get(), storm_max_size, PROT_READ, MAP_PRIVATE);
    Random random(number);
    for (unsigned round = 0; diary.goes_on(); ++round) {
        writer.check();
        const Mapping& mapping = round % 2 == 0 ? shared : copying;
        if (!CutFile::are_plausible(diary.load(mapping, 0, cut_length)))
            throw std::runtime_error("a byte that was never there");
        const std::size_t tail = cut_length + below(random, storm_max_size - cut_length) / page * page;
        expect_bytes("the zero tail", diary.load(mapping, tail, page), std::string(page, '\0'));
        const std::lock_guard lock(writing);
        if (writes && round % 3 == 0) {
            const auto size = static_cast<off_t>(below(random, cut_length));
            diary.must("ftruncate", [&] { return ::ftruncate(view.get(), size); });
        }
        diary.must("fsync", [&] { return ::fsync(view.get()); });
        expect_bytes("after fsync", diary.load(mapping, 0, cut_length), file.content());
    }
}

void wait_for_changes(Diary& diary, const ViewMount& mount, unsigned number) {
    const std::string name = fmt::format("quiet {}", number);
    CutFile file(mount.raw(name), number);
    const UniqueFd view = diary.open(mount.view(name), O_RDONLY);
    const Mapping mapping(view.get(), cut_length);
    Random random(number);
    while (diary.goes_on()) {
        for (std::size_t changes = 1 + below(random, 3); changes > 0; --changes) file.change();
        const std::string wanted = file.content();
        std::string got;
        diary.note("wait for a change",
                   [&] { return eventually([&] { return (got = mapping.bytes()) == wanted; }) ? 0 : -1; });
        expect_bytes("a change that was waited for", got, wanted);
    }
}

}  // namespace nosigbus::test
