/* Tests of @NAME@: cweb test @NAME@ */
#include <cweb_test.h>

CWEB_TEST(answers_with_length_and_message) {
    cweb_test_socket_t *socket = cweb_test_ws_open("/@NAME@/ws", NULL, NULL);
    CWEB_ASSERT(socket != NULL);
    CWEB_ASSERT_EQ(cweb_test_ws_send_text(socket, "hello"), 0);
    const cweb_test_message_t *first = cweb_test_ws_receive(socket, 1000);
    const cweb_test_message_t *second = cweb_test_ws_receive(socket, 1000);
    CWEB_ASSERT(first != NULL && second != NULL);
    CWEB_ASSERT_STR(first->data, "5 bytes");
    CWEB_ASSERT_STR(second->data, "hello");
}
