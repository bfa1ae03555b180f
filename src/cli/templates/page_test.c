/* Tests of @NAME@: cweb test @NAME@ */
#include <cweb_test.h>

CWEB_TEST(serves_the_page) {
    const cweb_test_response_t *res = cweb_test_request("GET", "/@NAME@", NULL, NULL);
    CWEB_ASSERT_EQ(res->status, 200);
    CWEB_ASSERT_CONTAINS(cweb_test_header(res, "content-type"), "text/html");
    CWEB_ASSERT_CONTAINS(res->body, "@NAME@");
}
