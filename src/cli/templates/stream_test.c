/* Tests of @NAME@: cweb test @NAME@ */
#include <cweb_test.h>

CWEB_TEST(counts_lines_and_bytes) {
    const cweb_test_response_t *res = cweb_test_request("PUT", "/@NAME@", NULL, "one\ntwo\nthree");
    CWEB_ASSERT_EQ(res->status, 200);
    CWEB_ASSERT_STR(res->body, "2 lines, 13 bytes\n");
}

CWEB_TEST(an_empty_upload_has_no_lines) {
    const cweb_test_response_t *res = cweb_test_request("PUT", "/@NAME@", NULL, "");
    CWEB_ASSERT_STR(res->body, "0 lines, 0 bytes\n");
}
