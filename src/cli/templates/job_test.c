/* Tests of @NAME@: cweb test @NAME@ */
#include <cweb_test.h>

CWEB_TEST(a_request_creates_a_job_that_counts) {
    const cweb_test_response_t *res = cweb_test_request("POST", "/@NAME@", NULL, NULL);
    CWEB_ASSERT_EQ(res->status, 200);
    CWEB_ASSERT_EQ(cweb_test_run_jobs(), 1);
    const cweb_test_job_t *job = cweb_test_job_at(0);
    CWEB_ASSERT_STR(job->state, "done");
    CWEB_ASSERT_STR(job->result, "{\"counted\": 3}");
    CWEB_ASSERT_EQ(job->event_count, 3);
    CWEB_ASSERT_CONTAINS(job->events[2].data, "\"percent\":100.0");
}
