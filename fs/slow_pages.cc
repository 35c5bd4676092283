#include "fs/slow_pages.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <utility>
#include <vector>

#include "fs/request_threads.h"
#include "lib/backing_file.h"

namespace nosigbus {
namespace {

// Aligned: whoever shares the open file can set O_DIRECT for it.
struct alignas(4096) PageBuffer {
    std::array<std::byte, max_read> bytes;
};

// Zeros, or an error where the user wants that.
void give_nothing(FileSystem& fs, Reply& reply, const OpenFile& file, std::size_t size, int error) {
    static constexpr std::array<std::byte, max_read> zeros{};
    fs.read_errors().report(file.descriptor(), error);
    ++file.node()->view().counters().read_errors;
    if (fs.options().on_error == Options::OnError::fail) return reply.error(error);
    reply.bytes(std::span(zeros).first(std::min(size, zeros.size())));
}

SlowWork::Give read_pages(FileSystem& fs, const OpenFilePtr& file, std::size_t size, off_t offset) {
    const auto buffer = std::make_shared<PageBuffer>();
    const auto pages = std::span(buffer->bytes).first(std::min(size, max_read));
    const PageRange range = pages_of(offset, pages.size());
    const GivenPages::State token = file->node()->view().pages().giving(range);
    const PaddedRead result = read_padded(file->descriptor(), pages, offset);
    return [&fs, file, buffer, pages, range, token, result](Reply& reply) {
        if (result.error != 0) return give_nothing(fs, reply, *file, pages.size(), result.error);
        View& view = file->node()->view();
        count_load(fs.counters(), view.counters(), pages.size(), result.real_bytes);
        auto digests = std::make_unique<ReadDigests>();
        view.pages().given(token, range.first, fs.digester().digest(pages, result.real_bytes, *digests));
        reply.bytes(pages);
    };
}

}  // namespace

void give_pages_slowly(FileSystem& fs, Reply& reply, const OpenFilePtr& file, std::size_t size, off_t offset) noexcept {
    // Whatever comes of it, the kernel has pages that nobody knows until `given` says otherwise.
    GivenPages& given = file->node()->view().pages();
    given.make_unknown(pages_of(offset, size));
    try {
        fs.slow_work().run(
            file->node(), reply, [&fs, file, size, offset] { return read_pages(fs, file, size, offset); },
            [&fs, file, size](Reply& late) { give_nothing(fs, late, *file, size, ETIMEDOUT); });
    } catch (const std::exception&) {
        give_nothing(fs, reply, *file, size, ENOMEM);
    }
}

void store_pages_slowly(FileSystem& fs, Reply& reply, const OpenFilePtr& file, std::span<const std::byte> bytes,
                        off_t offset) {
    const auto copy = std::make_shared<const std::vector<std::byte>>(bytes.begin(), bytes.end());
    file->node()->view().pages().make_unknown(pages_of(offset, bytes.size()));
    fs.slow_work().run(
        file->node(), reply,
        [file, copy, offset]() -> SlowWork::Give {
            store_within(file->descriptor(), *copy, offset);
            return [size = copy->size()](Reply& given) { given.written(size); };
        },
        [](Reply& late) { late.error(EIO); });
}

}  // namespace nosigbus
