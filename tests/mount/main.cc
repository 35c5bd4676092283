#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdlib>

#include "tests/mount/guard.h"
#include "tests/mount/kernel.h"

namespace {

unsigned selected = 0;

// Counts the test cases that a filter let through: a suite whose name is misspelled would pass with none.
struct Selection : doctest::IReporter {
    explicit Selection(const doctest::ContextOptions& /*options*/) {}
    void report_query(const doctest::QueryData& /*data*/) override {}
    void test_run_start() override {}
    void test_run_end(const doctest::TestRunStats& stats) override { selected = stats.numTestCasesPassingFilters; }
    void test_case_start(const doctest::TestCaseData& /*data*/) override {}
    void test_case_reenter(const doctest::TestCaseData& /*data*/) override {}
    void test_case_end(const doctest::CurrentTestCaseStats& /*stats*/) override {}
    void test_case_exception(const doctest::TestCaseException& /*exception*/) override {}
    void subcase_start(const doctest::SubcaseSignature& /*signature*/) override {}
    void subcase_end() override {}
    void log_assert(const doctest::AssertData& /*data*/) override {}
    void log_message(const doctest::MessageData& /*data*/) override {}
    void test_case_skipped(const doctest::TestCaseData& /*data*/) override {}
};

}  // namespace

REGISTER_LISTENER("selection", 1, Selection);

int main(int argc, char** argv) {
    doctest::Context context(argc, argv);
    return nosigbus::test::guarded([&context] {
        // Remembers the answer, while we may still mount.
        if (!nosigbus::test::kernel_maps_direct_files()) nosigbus::test::use_a_cat_that_stops();
        const int status = context.run();
        return context.shouldExit() || selected > 0 ? status : EXIT_FAILURE;
    });
}
