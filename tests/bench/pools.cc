// What a compositor pays for a frame that a client has drawn into memory of its own: from the commit until what is
// damaged has been copied.
#include <fmt/format.h>
#include <nosigbus.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/bench/contenders.h"
#include "tests/bench/cpu_caches.h"
#include "tests/bench/frame.h"
#include "tests/bench/groups.h"
#include "tests/bench/memory.h"
#include "tests/bench/samples.h"
#include "tests/bench/table.h"
#include "tests/mount/files.h"
#include "tests/mount/mapping.h"

namespace nosigbus::bench {

namespace {

using namespace test;

struct Unmap {
    void operator()(nosigbus_mapping* mapping) const { nosigbus_unmap(mapping); }
};
using LibraryMapping = std::unique_ptr<nosigbus_mapping, Unmap>;

// Memory of a client, which has it mapped, as libnosigbus maps it.
class ClientMemory {
  public:
    ClientMemory(int views, std::size_t size, int seals)
        : file_(must(::memfd_create("pool", MFD_CLOEXEC | MFD_ALLOW_SEALING), "memfd_create")) {
        resize(file_.get(), size);
        must(::fcntl(file_.get(), F_ADD_SEALS, seals), "F_ADD_SEALS");
        clients_ = std::make_unique<Mapping>(file_.get(), size, PROT_READ | PROT_WRITE);
        mapping_.reset(nosigbus_map(views, file_.get(), PROT_READ, 0, size));
        if (!mapping_) must(-1, "nosigbus_map");
        if ((nosigbus_view(mapping_.get()) < 0) != (seals != 0)) throw std::logic_error("not the mapping it should be");
    }

    [[nodiscard]] int fd() const { return file_.get(); }
    [[nodiscard]] std::span<std::byte> clients() const { return {clients_->data(), clients_->size()}; }
    [[nodiscard]] int view() const { return nosigbus_view(mapping_.get()); }
    [[nodiscard]] const nosigbus_mapping* ours() const { return mapping_.get(); }

    // The client draws the first bytes of the frame anew. Nobody is told of that.
    void draw(std::size_t length) { store_pages(clients().first(length), 0, 1, ++drawings_); }

  private:
    UniqueFd file_;
    std::unique_ptr<Mapping> clients_;
    LibraryMapping mapping_;
    std::uint64_t drawings_ = 0;
};

using Pools = std::vector<std::unique_ptr<ClientMemory>>;

struct Results {
    Samples plain;
    Samples copied_by_pread;
    Samples sealed;
    std::vector<Samples> views;
};

Seconds time_of_frame(ClientMemory& memory, std::span<std::byte> copy, const CpuCaches& caches,
                      const std::function<void()>& take) {
    memory.draw(copy.size());
    caches.forget();
    const Seconds time = time_of(take);
    if (std::memcmp(copy.data(), memory.clients().data(), copy.size()) != 0)
        throw std::runtime_error("a copy of something else than the client has drawn");
    return time;
}

void copy_by_pread(int fd, std::span<std::byte> copy) {
    for (std::size_t done = 0; done < copy.size();) {
        const auto got = must(::pread(fd, &copy[done], copy.size() - done, static_cast<off_t>(done)), "pread");
        if (got == 0) throw std::runtime_error("a file that ends too early");
        done += static_cast<std::size_t>(got);
    }
}

void copy_by_library(const ClientMemory& memory, std::span<std::byte> copy) {
    must(nosigbus_sync_mapping(memory.ours(), 0, copy.size()), "nosigbus_sync_mapping");
    std::memcpy(copy.data(), nosigbus_data(memory.ours()), copy.size());
}

// `unsealed` has a view of each engine.
void measure_round(const Pools& unsealed, ClientMemory& sealed, std::span<std::byte> copy, const CpuCaches& caches,
                   Results& results) {
    ClientMemory& first = *unsealed.front();
    results.plain.add(
        time_of_frame(first, copy, caches, [&] { std::memcpy(copy.data(), first.clients().data(), copy.size()); }));
    results.copied_by_pread.add(time_of_frame(first, copy, caches, [&] { copy_by_pread(first.fd(), copy); }));
    results.sealed.add(time_of_frame(sealed, copy, caches, [&] { copy_by_library(sealed, copy); }));
    for (std::size_t i = 0; i < unsealed.size(); ++i) {
        results.views[i].add(time_of_frame(*unsealed[i], copy, caches, [&] { copy_by_library(*unsealed[i], copy); }));
    }
}

}  // namespace

void measure_pools(Form form) {
    Contenders contenders = Contenders::only_nosigbus();
    const CpuCaches caches(form);
    const std::size_t size = frame_size(form);
    const auto views = contenders.views();
    Results whole;
    whole.views.resize(views.size());
    Results tenth = whole;
    {
        Pools unsealed;
        UniqueFd directory;
        for (const std::size_t contender : views) {
            directory = UniqueFd(must(nosigbus_find(contenders.path(contender, "").c_str()), "nosigbus_find"));
            unsealed.push_back(std::make_unique<ClientMemory>(directory.get(), size, 0));
            contenders.check_engine(contender, unsealed.back()->view());
        }
        ClientMemory sealed(directory.get(), size, F_SEAL_SHRINK);
        Buffer copy(size);
        const std::size_t damage = size / 10 / page * page;
        for (std::size_t round = 0; round < choose<std::size_t>(form, 60, 3); ++round) {
            measure_round(unsealed, sealed, copy.bytes(), caches, whole);
            measure_round(unsealed, sealed, copy.bytes().first(damage), caches, tenth);
        }
    }
    contenders.end();
    Table table({"a frame of " + frame_size_text(form), "all of it, ms", "ratio", "a tenth, ms", "ratio"});
    const auto row = [&](const std::string& name, const std::function<const Samples&(const Results&)>& samples) {
        const double of_whole = samples(whole).median().count();
        const double of_tenth = samples(tenth).median().count();
        table.add({name, in_ms(of_whole), times(of_whole, whole.plain.median().count()), in_ms(of_tenth),
                   times(of_tenth, tenth.plain.median().count())});
    };
    row("plain mapping, unprotected", &Results::plain);
    row("pread of the client's descriptor", &Results::copied_by_pread);
    row("libnosigbus, of a memfd with F_SEAL_SHRINK: plain mapping", &Results::sealed);
    for (std::size_t i = 0; i < views.size(); ++i) {
        const std::string& engine = contenders.engine(views[i]);
        row(fmt::format("libnosigbus, of any other: view, engine={}, barrier of what is damaged", engine),
            [i](const Results& results) -> const Samples& { return results.views[i]; });
    }
    table.print();
    fmt::print(
        "\nMedians of {} rounds; ratio to the unprotected copy. The client stores into every page that is damaged,\n"
        "then what is damaged is copied. The CPU caches hold nothing of it when the clock starts.\n",
        whole.plain.count());
}

}  // namespace nosigbus::bench
