#include "tests/bench/frame.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <stdexcept>

#include "tests/bench/memory.h"
#include "tests/mount/files.h"

namespace nosigbus::bench {

using namespace test;

std::size_t frame_size(Form form) {
    return choose(form, 33 * MiB, 4 * MiB);
}

std::string frame_size_text(Form form) {
    return fmt::format("{} MiB", frame_size(form) / MiB);
}

namespace {

UniqueFd make_file_of(const std::string& path, std::size_t size) {
    UniqueFd file = make_file(path);
    resize(file.get(), size);
    return file;
}

}  // namespace

Frame::Frame(const Contenders& contenders, std::size_t contender, const std::string& name, std::size_t size)
    : raw_file_(make_file_of(contenders.path(Contenders::raw, name), size)),
      view_file_(contenders.open_to_read(contender, name)),
      raw_(raw_file_.get(), size, PROT_READ | PROT_WRITE),
      view_(view_file_.get(), size) {
    change_everything();
    must(::fsync(view_file_.get()), "fsync");
    check(sum_of_words(view()));
}

void Frame::change_pages(std::size_t stride) {
    ++changes_;
    store_pages(raw(), changes_ % stride, stride, changes_);
}

void Frame::check(std::uint64_t sum) const {
    if (sum != sum_of_words(raw())) throw std::runtime_error("a view shows other bytes than its file has");
}

Frames make_frames(const Contenders& contenders, std::size_t size) {
    Frames frames;
    for (const std::size_t contender : contenders.views())
        frames.push_back(std::make_unique<Frame>(contenders, contender, fmt::format("frame{}", contender), size));
    return frames;
}

void Buffer::fill(int fd, std::size_t offset, std::size_t length) {
    for (auto left = bytes().subspan(offset, length); !left.empty();) {
        const auto at = static_cast<off_t>(left.data() - bytes_.data());
        const auto got = must(::pread(fd, left.data(), left.size(), at), "pread");
        if (got == 0) throw std::runtime_error("a file that ends too early");
        left = left.subspan(static_cast<std::size_t>(got));
    }
}

}  // namespace nosigbus::bench
