/* Tests of @NAME@: cweb test @NAME@ */
#include <cweb_test.h>

CWEB_TEST(greets_who_is_named) {
    const cweb_test_response_t *res = cweb_test_request("GET", "/@NAME@?who=you", NULL, NULL);
    CWEB_ASSERT_EQ(res->status, 200);
    CWEB_ASSERT_STR(res->body, "Hello, you!\n");
}

CWEB_TEST(greets_as_the_setting_says) {
    cweb_test_setting("GREETING", "Good morning");
    const cweb_test_response_t *res = cweb_test_request("GET", "/@NAME@", NULL, NULL);
    CWEB_ASSERT_STR(res->body, "Good morning, world!\n");
}
