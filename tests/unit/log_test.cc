#include "lib/log.h"

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/workers.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

// What is written to stderr meanwhile.
class Captured {
  public:
    Captured() { ::dup2(memory_.get(), STDERR_FILENO); }
    Captured(const Captured&) = delete;
    Captured& operator=(const Captured&) = delete;
    ~Captured() { ::dup2(stderr_.get(), STDERR_FILENO); }

    [[nodiscard]] std::string text() const { return content_of(memory_.get()); }

  private:
    UniqueFd stderr_{::dup(STDERR_FILENO)};
    UniqueFd memory_{::memfd_create("stderr", MFD_CLOEXEC)};
};

}  // namespace

TEST_CASE("what is logged is one line each, whatever a name brings into it") {
    std::string text;
    {
        const Captured captured;
        log::info("{} is {}", "a", 1);
        log::warning("b\nnosigbus: forged\x1b[2J\x7f\t");
        log::error("{}", std::string("nul \0 in it", 11));
        text = captured.text();
    }
    CHECK(text == "nosigbus: a is 1\nnosigbus: b?nosigbus: forged?[2J??\nnosigbus: nul ? in it\n");
}

TEST_CASE("a log without stderr is none, and no harm") {
    const UniqueFd kept(::dup(STDERR_FILENO));
    ::close(STDERR_FILENO);
    log::error("nobody hears this");
    ::dup2(kept.get(), STDERR_FILENO);
}

TEST_CASE("the log of a daemon keeps no descriptor, whose number might be somebody else's later") {
    const int status = run_worker([] {
        const auto before = open_descriptors();
        log::use_syslog();
        for (int i = 0; i < 3; ++i) {
            log::info("a test of nosigbus");
            if (open_descriptors() != before) end_worker(2);
        }
    });
    CHECK(status == 0);
}
