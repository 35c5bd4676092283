#include "lib/page_digest.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#if defined(__x86_64__)
// The widest instructions this processor has. The header redirects XXH3_64bits_withSecret.
#include <xxh_x86dispatch.h>
#endif

#include "lib/syscalls.h"

namespace nosigbus {

std::size_t page_size() {
    static const auto size = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    return size;
}

PageDigester::PageDigester() {
    sys::check(::getrandom(secret_.data(), secret_.size(), 0), "getrandom");  // up to 256 bytes come whole
    of_zeros_ = (*this)(std::vector<std::byte>(page_size()));
}

PageDigest PageDigester::operator()(std::span<const std::byte> page) const {
    const XXH64_hash_t hash = XXH3_64bits_withSecret(page.data(), page.size(), secret_.data(), secret_.size());
    const PageDigest digest = hash & ~PageDigest{1};
    return digest == 0 ? 2 : digest;
}

std::span<const PageDigest> PageDigester::digest(std::span<const std::byte> bytes, std::size_t real_bytes,
                                                 std::span<PageDigest> digests) const {
    const std::size_t count = std::min(bytes.size() / page_size(), digests.size());
    for (std::size_t i = 0; i < count; ++i) {
        const std::size_t at = i * page_size();
        digests[i] = at < real_bytes ? (*this)(bytes.subspan(at, page_size())) : of_zeros_;
    }
    return digests.first(count);
}

}  // namespace nosigbus
