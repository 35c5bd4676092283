// A frame of 33 MiB (3840 × 2160 pixels of 4 bytes, and a bit more), as a raw file, its view, and what its owner has
// mapped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lib/unique_fd.h"
#include "tests/bench/contenders.h"
#include "tests/bench/groups.h"
#include "tests/mount/mapping.h"

namespace nosigbus::bench {

std::size_t frame_size(Form form);
std::string frame_size_text(Form form);

class Frame {
  public:
    // Makes the file `name` in the source, and its view by `contender`. Every page of that has been loaded then.
    Frame(const Contenders& contenders, std::size_t contender, const std::string& name, std::size_t size);

    [[nodiscard]] int raw_fd() const { return raw_file_.get(); }
    [[nodiscard]] int view_fd() const { return view_file_.get(); }
    [[nodiscard]] std::span<std::byte> raw() const { return {raw_.data(), raw_.size()}; }
    [[nodiscard]] std::span<std::byte> view() const { return {view_.data(), view_.size()}; }

    // The owner fills every `stride`-th page with new words, through its mapping: nobody is told of that.
    void change_pages(std::size_t stride);
    void change_one_percent() { change_pages(100); }
    void change_everything() { change_pages(1); }

    // Throws unless `sum` is the sum of the words the file has now.
    void check(std::uint64_t sum) const;

  private:
    UniqueFd raw_file_;
    UniqueFd view_file_;
    test::Mapping raw_;
    test::Mapping view_;
    std::uint64_t changes_ = 0;
};

// A frame for each view of `contenders`, so that the server of none works while another is measured.
using Frames = std::vector<std::unique_ptr<Frame>>;
Frames make_frames(const Contenders& contenders, std::size_t size);

// Memory of a program's own, every page of it touched.
class Buffer {
  public:
    explicit Buffer(std::size_t size) : bytes_(size, std::byte{1}) {}
    [[nodiscard]] std::span<std::byte> bytes() { return bytes_; }

    // Fills it with the beginning of the file.
    void fill(int fd) { fill(fd, 0, bytes_.size()); }
    // Copies that part of the file to where it belongs.
    void fill(int fd, std::size_t offset, std::size_t length);

  private:
    std::vector<std::byte> bytes_;
};

}  // namespace nosigbus::bench
