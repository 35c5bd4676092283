#include "tests/mount/matrix.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <optional>
#include <utility>

#include "tests/mount/changes.h"
#include "tests/mount/counters.h"
#include "tests/mount/files.h"
#include "tests/mount/kernel.h"
#include "tests/mount/loading.h"
#include "tests/mount/mapping.h"
#include "tests/mount/view_mount.h"

namespace nosigbus::test {

const Kind shared_ro = {"shared ro", O_RDONLY, PROT_READ, MAP_SHARED};
const Kind shared_rw = {"shared rw", O_RDWR, PROT_READ | PROT_WRITE, MAP_SHARED};
const Kind private_clean = {"private clean", O_RDONLY, PROT_READ | PROT_WRITE, MAP_PRIVATE};
const Kind private_cow = {"private cow", O_RDONLY, PROT_READ | PROT_WRITE, MAP_PRIVATE, true};

const Mode stat_view = {"stat=view", {"max_size=1M"}};
const Mode stat_real = {"stat=real", {"max_size=1M", "stat=real"}, true};
// Where files are opened cached, the kernel fills pages before it asks for a write. If one is dropped just then and
// loaded again, it shows the file as it was, until the event of the write. The reply cannot wait for that: pages are
// locked.
const Mode cached_opens = {"cached_opens", {"max_size=1M", "cached_opens"}, false, true};
const Mode cache_engine = {"engine=cache", {"max_size=1M", "engine=cache"}};

namespace {

constexpr std::size_t view_size = MiB;

// Who makes the change, and with it when a mapping shows it.
enum class Made {
    outside,         // to the backing file: by itself in a while
    before_barrier,  // to the backing file: when fsync returns
    through_view,    // by another descriptor of the view: when the call returns
};

// When the pages of the mapping are loaded for the first time.
enum class Touched {
    before,  // and all the while
    during,  // from the moment of the change on
    after,
};

struct Cell {
    const Change& change;
    const Outcome& native;
    Made made;
    Touched touched;
    bool unlinked;  // before the change
};

std::string name_of(const Cell& cell) {
    constexpr const char* touched[] = {"touched before", "touched meanwhile", "untouched"};
    return fmt::format("{}, {}, {}", cell.change.name, touched[static_cast<int>(cell.touched)],
                       cell.unlinked ? "unlinked" : "linked");
}

// Of a private mapping with copies: the pages that were stored to, one in the file and one in the zero tail, as they
// were then.
class PrivateCopies {
  public:
    PrivateCopies(const Kind& kind, const Mapping& mapping) {
        if (!kind.private_copies) return;
        for (const std::size_t at : {page, 8 * page}) {
            REQUIRE(mapping.store(at + 5, "mine") == 4);
            copies_.emplace_back(at, mapping.bytes(at, page));
        }
    }

    [[nodiscard]] std::string over(std::string content) const {
        for (const auto& [at, copy] : copies_) content.replace(at, copy.size(), copy);
        return content;
    }

  private:
    std::vector<std::pair<std::size_t, std::string>> copies_;
};

// The file of one cell.
class ChangedFile {
  public:
    ChangedFile(const ViewMount& mount, const Cell& cell)
        : raw_path_(mount.raw(name_of(cell))),
          view_path_(mount.view(name_of(cell))),
          through_view_(cell.made == Made::through_view),
          backing_(make_file(raw_path_, content_before())) {
        if (through_view_) changer_ = open_file(view_path_, O_RDWR);
    }

    [[nodiscard]] const std::string& view_path() const { return view_path_; }
    [[nodiscard]] int backing() const { return backing_.get(); }
    [[nodiscard]] Target target() const {
        return through_view_ ? Target{changer_.get(), view_path_} : Target{backing_.get(), raw_path_};
    }

  private:
    std::string raw_path_;
    std::string view_path_;
    bool through_view_;
    UniqueFd backing_;
    UniqueFd changer_;
};

// The name leads to the file that has it now, at once.
void check_name(const ChangedFile& file, const std::optional<std::string>& named, const Mode& mode) {
    if (!named) {
        CHECK(answer(::access(file.view_path().c_str(), F_OK)) == "ENOENT");
        return;
    }
    CHECK(size_of(file.view_path()) == (mode.tells_real_size ? named->size() : view_size));
    const UniqueFd now = open_file(file.view_path(), O_RDONLY);
    const std::size_t length = mapped_pages * page;
    CHECK(eventually([&] { return Mapping(now.get(), length).bytes() == padded(*named, length); }));
}

// False where the mapping does not show the change, or a load faults.
bool check(const ViewMount& mount, const Kind& kind, const Mode& mode, const Cell& cell) {
    const std::string name = name_of(cell);
    CAPTURE(name);
    const std::size_t length = mapped_pages * page;
    const ChangedFile file(mount, cell);
    const UniqueFd view = open_file(file.view_path(), kind.open_flags);
    const Mapping raw(file.backing(), length);
    const Mapping mapping(view.get(), length, kind.protection, kind.flags);
    if (cell.unlinked) must(::unlink(file.target().path.c_str()), "unlink");
    if (cell.touched == Touched::before) REQUIRE(difference(mapping.bytes(), padded(content_before(), length)) == "");
    const PrivateCopies copies(kind, mapping);
    std::optional<Loading> loading;
    if (cell.touched != Touched::after) loading.emplace(mapping);
    if (cell.touched == Touched::before) REQUIRE(loading->goes_round());

    cell.change.make(file.target());

    if (cell.made == Made::before_barrier) REQUIRE(::fsync(view.get()) == 0);
    const std::string wanted = copies.over(padded(cell.native.content, length));
    const bool shows_writes_soon = mode.shows_writes_soon || !kernel_maps_direct_files();
    std::string seen;
    bool faulted = false;
    eventually(
        [&] {
            seen = mapping.bytes();
            faulted = faulted || seen.size() < length;
            return faulted || seen == wanted;
        },
        cell.made == Made::outside || (cell.change.writes && shows_writes_soon) ? patience : std::chrono::seconds(0));
    CHECK_FALSE(faulted);
    CHECK(difference(seen, wanted) == "");
    if (loading) {
        CHECK(loading->goes_round());
        CHECK(loading->faults() == 0);
        faulted = faulted || loading->faults() > 0;
    }
    // The raw mapping of the same file faults past its last page, and nowhere before it.
    CHECK(raw.touch() == (cell.native.content.size() + page - 1) / page);
    CHECK(size_of(view.get()) == (mode.tells_real_size ? cell.native.content.size() : view_size));
    check_name(file, cell.unlinked ? std::nullopt : cell.native.named, mode);
    CHECK(size_of(file.backing()) == cell.native.content.size());
    CHECK(difference(read_all(file.backing()), cell.native.content) == "");
    return seen == wanted && !faulted;
}

}  // namespace

void check_column(const Kind& kind, const Mode& mode) {
    constexpr const char* made_names[] = {"changed outside, unasked", "changed outside, at the barrier",
                                          "changed through the view, at once"};
    Made made = Made::outside;
    SUBCASE(made_names[0]) {
        made = Made::outside;
    }
    SUBCASE(made_names[1]) {
        made = Made::before_barrier;
    }
    SUBCASE(made_names[2]) {
        made = Made::through_view;
    }
    const ViewMount mount(mode.options);
    CAPTURE(kind.name);
    CAPTURE(mode.name);
    const std::string how = made_names[static_cast<int>(made)];
    CAPTURE(how);
    int failures = 0;
    for (const Change& change : changes()) {
        if (change.silent && made == Made::outside) continue;
        const Outcome native = native_outcome(change, mount.plain());
        for (const Touched touched : {Touched::before, Touched::during, Touched::after}) {
            for (const bool unlinked : {false, true}) {
                if (unlinked && change.needs_name) continue;
                if (!check(mount, kind, mode, {change, native, made, touched, unlinked})) {
                    ++failures;
                    for (const auto& [name, number] : counters(mount)) MESSAGE(name, " ", number);
                }
                REQUIRE_MESSAGE(failures < 3,
                                "the rest of the matrix is left out: each failure takes all our patience");
            }
        }
    }
}

}  // namespace nosigbus::test
