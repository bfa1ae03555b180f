#include <cweb_test.h>
#include <string.h>

static const char FORM[] = "Content-Type: application/x-www-form-urlencoded";

static int count(void *out, int columns, char **values, char **names) {
    (void)columns, (void)names;
    *(int *)out = atoi(values[0]);
    return 0;
}

CWEB_TEST(items_are_kept) {
    const cweb_test_response_t *res = cweb_test_request("POST", "/items", FORM, "name=pen&price=3");
    CWEB_ASSERT_EQ(res->status, 201);
    CWEB_ASSERT_STR(res->body, "pen: 3 EUR\n");
    CWEB_ASSERT_EQ(res->length, 11);
    int items = -1;
    ctx->database->exec(ctx->database, "SELECT count(*) FROM items", count, &items);
    CWEB_ASSERT_EQ(items, 1);
}

CWEB_TEST(each_test_begins_with_an_empty_database) {
    int items = -1;
    ctx->database->exec(ctx->database, "SELECT count(*) FROM items", count, &items);
    CWEB_ASSERT_EQ(items, 0);
    CWEB_ASSERT(container_get(ctx->cache, "counted") == NULL);
}

CWEB_TEST(what_is_not_served_is_refused_as_on_a_server) {
    CWEB_ASSERT_EQ(cweb_test_request("GET", "/nothing", NULL, NULL)->status, 404);
    const cweb_test_response_t *res = cweb_test_request("DELETE", "/items", NULL, NULL);
    CWEB_ASSERT_EQ(res->status, 405);
    CWEB_ASSERT_STR(cweb_test_header(res, "ALLOW"), "POST, OPTIONS");
    CWEB_ASSERT(cweb_test_header(res, "x-none") == NULL);
    CWEB_ASSERT_EQ(cweb_test_request("GET", "/news", NULL, NULL)->status, 426);
    CWEB_ASSERT_EQ(cweb_test_request("GET", "no path", NULL, NULL)->status, 400);
    CWEB_ASSERT_EQ(cweb_test_request("POST", "/items", FORM, "name=pen")->status, 400);
    static char large[2 << 20];
    CWEB_ASSERT_EQ(cweb_test_request_data("POST", "/items", NULL, large, sizeof large)->status, 413);
}

CWEB_TEST(jobs_wait_until_the_test_runs_them) {
    const char *uuid = cweb_test_header(cweb_test_request("POST", "/items", FORM, "name=a&price=1"), "x-job");
    CWEB_ASSERT(uuid != NULL);
    CWEB_ASSERT_STR(cweb_test_job(uuid)->state, "pending");
    cweb_uuid_t other;
    CWEB_ASSERT_EQ(jobs_create("shop-mail", "{\"to\": \"nobody\"}", &other), 0);
    CWEB_ASSERT_EQ(jobs_create("no-such-job", "{}", &other), -1);
    CWEB_ASSERT_EQ(cweb_test_run_jobs(), 2);
    const cweb_test_job_t *job = cweb_test_job(uuid);
    CWEB_ASSERT_STR(job->state, "done");
    CWEB_ASSERT_STR(job->result, "{}");
    CWEB_ASSERT_EQ(job->event_count, 1);
    CWEB_ASSERT_STR(job->events[0].type, "sent");
    CWEB_ASSERT_STR(job->events[0].data, "{\"to\": \"you\"}");
    CWEB_ASSERT_STR(cweb_test_job_at(1)->error, "job failed");
    CWEB_ASSERT(cweb_test_job_at(2) == NULL);
}

CWEB_TEST(sockets_hear_rooms_and_are_closed) {
    const cweb_test_response_t *refusal = NULL;
    CWEB_ASSERT(cweb_test_ws_open("/nothing", NULL, &refusal) == NULL);
    CWEB_ASSERT_EQ(refusal->status, 404);
    cweb_test_socket_t *socket = cweb_test_ws_open("/news?id=7", NULL, NULL);
    CWEB_ASSERT(socket != NULL);
    cweb_test_request("POST", "/items", FORM, "name=lamp&price=9");
    const cweb_test_message_t *news = cweb_test_ws_receive(socket, 1000);
    CWEB_ASSERT(news != NULL);
    CWEB_ASSERT_STR(news->data, "lamp");
    CWEB_ASSERT_EQ(news->type, CWEB_WS_TEXT);
    cweb_test_ws_send(socket, CWEB_WS_BINARY, "a\0b", 3);
    const cweb_test_message_t *echo = cweb_test_ws_receive(socket, 1000);
    CWEB_ASSERT_MEM(echo->data, echo->length, "a\0b", 3);
    CWEB_ASSERT_EQ(echo->type, CWEB_WS_BINARY);
    CWEB_ASSERT(cweb_test_ws_receive(socket, 0) == NULL);
    CWEB_ASSERT_EQ(cweb_test_ws_is_closed(socket), 0);
    cweb_test_ws_send_text(socket, "bye");
    CWEB_ASSERT_EQ(cweb_test_ws_is_closed(socket), 1);
    CWEB_ASSERT_EQ(cweb_test_ws_send_text(socket, "more"), -1);
    cweb_test_ws_close(socket);
    CWEB_ASSERT(container_get(ctx->cache, "closed") != NULL);
}

CWEB_TEST(streams_are_read_and_sent_whole) {
    size_t length = (size_t)3 << 20;
    char *body = malloc(length);
    memset(body, 'x', length);
    const cweb_test_response_t *res = cweb_test_request_data("POST", "/upload", NULL, body, length);
    free(body);
    CWEB_ASSERT_EQ(res->status, 200);
    CWEB_ASSERT_CONTAINS(res->body, "sum 3145728\n");
}

CWEB_TEST(files_are_answers_too) {
    char path[600];
    snprintf(path, sizeof path, "%s/a.txt", cweb_test_dir());
    FILE *out = fopen(path, "w");
    fputs("in a file", out);
    fclose(out);
    char target[700];
    snprintf(target, sizeof target, "/file?path=%s", path);
    const cweb_test_response_t *res = cweb_test_request("GET", target, NULL, NULL);
    CWEB_ASSERT_EQ(res->status, 200);
    CWEB_ASSERT_STR(res->body, "in a file");
}

CWEB_TEST(work_and_settings) {
    CWEB_ASSERT_EQ(cweb_test_setting("CURRENCY", "USD"), 0);
    CWEB_ASSERT_EQ(cweb_test_setting("A B", "x"), -1);
    CWEB_ASSERT_STR(cweb_test_request("POST", "/items", FORM, "name=a&price=1")->body, "a: 1 USD\n");
    CWEB_ASSERT_STR(cweb_test_request("GET", "/later", NULL, NULL)->body, "1\n");
    CWEB_ASSERT_EQ(cweb_test_settle(5000), 0);
    CWEB_ASSERT_EQ(*(int *)container_get(ctx->cache, "counted"), 7);
}

CWEB_TEST(this_one_does_not_run) { cweb_test_skip("there is no printer"); }
