#include "tests/bench/frame.h"

#include <fmt/format.h>
#include <sys/mman.h>

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

Frame::Frame(const Contenders& contenders, const std::string& name, std::size_t size)
    : raw_file_(make_file_of(contenders.path(Contenders::raw, name), size)),
      view_file_(open_file(contenders.path(Contenders::nosigbus, name), O_RDONLY)),
      raw_(raw_file_.get(), size, PROT_READ | PROT_WRITE),
      view_(view_file_.get(), size) {
    change_everything();
    check(sum_of_words(view()));
}

void Frame::change_pages(std::size_t stride) {
    ++changes_;
    store_pages(raw(), changes_ % stride, stride, changes_);
}

void Frame::check(std::uint64_t sum) const {
    if (sum != sum_of_words(raw())) throw std::runtime_error("a view shows other bytes than its file has");
}

void Buffer::fill(int fd) {
    for (std::size_t done = 0; done < bytes_.size();) {
        const auto got =
            must(::pread(fd, bytes_.data() + done, bytes_.size() - done, static_cast<off_t>(done)), "pread");
        if (got == 0) throw std::runtime_error("a file that ends too early");
        done += static_cast<std::size_t>(got);
    }
}

}  // namespace nosigbus::bench
