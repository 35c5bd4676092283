#include "lib/page_digest.h"

#include <doctest/doctest.h>

#include <random>
#include <vector>

using namespace nosigbus;

namespace {

using Page = std::vector<std::byte>;

Page random_page(unsigned seed) {
    std::mt19937 random(seed);
    Page page(page_size());
    for (std::byte& byte : page) byte = static_cast<std::byte>(random());
    return page;
}

}  // namespace

TEST_CASE("equal pages have equal digests, wherever they lie in memory") {
    const PageDigester digester;
    for (unsigned seed = 0; seed < 100; ++seed) {
        const Page page = random_page(seed);
        Page shifted(page.size() + 1);
        std::copy(page.begin(), page.end(), shifted.begin() + 1);
        CHECK(digester(page) == digester(page));
        CHECK(digester(page) == digester(std::span(shifted).subspan(1)));
    }
}

TEST_CASE("a page with one bit flipped has another digest, whichever bit it is") {
    const PageDigester digester;
    for (Page page : {random_page(1), Page(page_size()), Page(page_size(), std::byte{0xff})}) {
        const PageDigest before = digester(page);
        std::size_t alike = 0;
        for (std::size_t bit = 0; bit < page.size() * 8; ++bit) {
            page[bit / 8] ^= static_cast<std::byte>(1U << bit % 8);
            alike += digester(page) == before ? 1 : 0;
            page[bit / 8] ^= static_cast<std::byte>(1U << bit % 8);
        }
        CHECK(alike == 0);
        CHECK(digester(page) == before);
    }
}

TEST_CASE("a digest is even and never 0, so that it is neither absent nor unknown") {
    const PageDigester digester;
    for (unsigned seed = 0; seed < 1000; ++seed) {
        const PageDigest digest = digester(random_page(seed));
        REQUIRE(digest % 2 == 0);
        REQUIRE(digest != 0);
    }
}

TEST_CASE("a page without a byte of the file is known without reading it") {
    const PageDigester digester;
    CHECK(digester.of_zeros() == digester(Page(page_size())));
    CHECK(digester.of_zeros() % 2 == 0);
    CHECK(digester.of_zeros() != 0);
    Page almost(page_size());
    almost.back() = std::byte{1};
    CHECK(digester.of_zeros() != digester(almost));
}

TEST_CASE("nobody can tell a digest who does not know the secret of this digester") {
    const PageDigester one;
    const PageDigester other;
    const Page page = random_page(1);
    CHECK(one(page) != other(page));
    CHECK(one.of_zeros() != other.of_zeros());
}
