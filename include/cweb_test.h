/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file cweb_test.h
 * Tests of a module, which `cweb test` builds and runs without a server.
 *
 *   #include <cweb_test.h>
 *
 *   CWEB_TEST(greets) {
 *       const cweb_test_response_t *res = cweb_test_request("GET", "/hello?who=you", NULL, NULL);
 *       CWEB_ASSERT_EQ(res->status, 200);
 *       CWEB_ASSERT_STR(res->body, "Hello, you!\n");
 *   }
 *
 * Tests lie in the module's own source or, in a project, in files named *_test.c or in the directory tests/. A deployment
 * compiles none of them: CWEB_TEST in a module's source leaves no code in the module.
 *
 * Each test runs in a process of its own, in the sandbox of isolated modules. The cache and the database are empty, and
 * the settings are those of module.toml. onload runs before the test, unload after it. A test fails when an assertion
 * fails, when the test crashes, calls exit(3) or takes too long, or when a handler of the module crashes meanwhile. The
 * module's handlers, callbacks and jobs run as on a server, on threads of their own.
 *
 * The parameter ctx of a test is the module's context, with the cache and the database that handlers use. All return values
 * of these functions stay valid until the end of the test.
 */
#ifndef CWEB_TEST_H
#define CWEB_TEST_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cweb.h>

#ifdef __cplusplus
extern "C" {
#endif

struct cweb_context;

/** Limit on the text of one failure; the rest is cut. */
#define CWEB_TEST_TEXT_MAX 4096

/** The answer to a request. */
typedef struct cweb_test_response {
    int status;
    const char *body; /**< Never NULL; a NUL follows it */
    size_t length;    /**< Bytes of body */
    const char *head; /**< The status line and the header fields as a client receives them; lines end with \r\n */
} cweb_test_response_t;

/** An event that a job has emitted. */
typedef struct cweb_test_event {
    const char *type;
    const char *data; /**< NULL if the event has no data */
} cweb_test_event_t;

/** A job in its present state. */
typedef struct cweb_test_job {
    const char *uuid;
    const char *name;
    const char *payload;
    const char *state;  /**< "pending", "running", "done" or "failed" */
    const char *result; /**< NULL if the job has no result */
    const char *error;  /**< NULL if the job has no error */
    const cweb_test_event_t *events;
    size_t event_count;
} cweb_test_job_t;

/** A message that the module has sent to a WebSocket. */
typedef struct cweb_test_message {
    int type;         /**< CWEB_WS_TEXT or CWEB_WS_BINARY */
    const char *data; /**< A NUL follows it */
    size_t length;
} cweb_test_message_t;

/** The client's end of a WebSocket. */
typedef struct cweb_test_socket cweb_test_socket_t;

/** A test, as CWEB_TEST declares it. Authors don't need this structure. */
struct cweb_test_case {
    const char *name;
    const char *file;
    int line;
    void (*run)(struct cweb_context *ctx);
    struct cweb_test_case *next;
};

/** The table of the test runner; new entries stand at its end. Authors don't need this table. */
struct cweb_test_host {
    uint32_t size; /**< sizeof(struct cweb_test_host) of the program that runs the tests */
    const cweb_test_response_t *(*request)(const char *method, const char *target, const char *headers, const void *body,
                                           size_t length);
    void (*failed)(const char *file, int line, const char *text);
    void (*skipped)(const char *reason);
    int (*setting)(const char *key, const char *value);
    size_t (*run_jobs)(void);
    const cweb_test_job_t *(*job)(const char *uuid);
    const cweb_test_job_t *(*job_at)(size_t index);
    cweb_test_socket_t *(*ws_open)(const char *target, const char *headers, const cweb_test_response_t **refusal);
    int (*ws_send)(cweb_test_socket_t *socket, int type, const void *data, size_t length);
    const cweb_test_message_t *(*ws_receive)(cweb_test_socket_t *socket, int wait_ms);
    int (*ws_is_closed)(cweb_test_socket_t *socket);
    void (*ws_close)(cweb_test_socket_t *socket);
    int (*settle)(int wait_ms);
    const char *(*dir)(void);
    const char *(*header)(const cweb_test_response_t *response, const char *name);
};

/* The runner's table; NULL on a server. Hidden: each module has a pointer of its own. */
struct cweb_test_binding {
    const struct cweb_test_host *host;
};

extern struct cweb_test_binding cweb_test_binding;
__attribute__((weak, visibility("hidden"))) struct cweb_test_binding cweb_test_binding = {NULL};

/**
 * Declares a test: its name, which is a C identifier, and its body.
 *
 * The body has a parameter ctx, the struct cweb_context of the module.
 */
#ifdef CWEB_TESTING

extern struct cweb_test_case *cweb_test_cases;
__attribute__((weak, visibility("default"))) struct cweb_test_case *cweb_test_cases = NULL;

void cweb_bind_tests(const struct cweb_test_host *host);
__attribute__((weak, used, visibility("default"))) void cweb_bind_tests(const struct cweb_test_host *host) {
    cweb_test_binding.host = host;
}

static inline void cweb_test_add(struct cweb_test_case *test) {
    struct cweb_test_case **at = &cweb_test_cases;
    while (*at != NULL) {
        at = &(*at)->next;
    }
    *at = test;
}

#define CWEB_TEST(test_name)                                                                                               \
    static void cweb_test_of_##test_name(struct cweb_context *ctx);                                                        \
    static struct cweb_test_case cweb_test_case_of_##test_name = {#test_name, __FILE__, __LINE__,                          \
                                                                  cweb_test_of_##test_name, NULL};                         \
    __attribute__((constructor)) static void cweb_test_add_##test_name(void) {                                             \
        cweb_test_add(&cweb_test_case_of_##test_name);                                                                     \
    }                                                                                                                      \
    static void cweb_test_of_##test_name(__attribute__((unused)) struct cweb_context *ctx)

#else

#define CWEB_TEST(test_name)                                                                                               \
    __attribute__((unused)) static inline void cweb_test_of_##test_name(__attribute__((unused)) struct cweb_context *ctx)

#endif

/* ---- Assertions: a failed assertion ends the test, and the report has its file and line, and both values ---- */

/** Ends the test as failed, with formatted text. Use CWEB_FAIL. */
__attribute__((format(printf, 3, 4), noreturn)) static inline void cweb_test_fail(const char *file, int line,
                                                                                  const char *format, ...) {
    char text[CWEB_TEST_TEXT_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (cweb_test_binding.host != NULL) {
        cweb_test_binding.host->failed(file, line, text);
    } else {
        fprintf(stderr, "%s:%d: %s\n", file, line, text);
    }
    cweb_exit_handler(1, "an assertion");
}

/* The text of an expression behind its value, unless both texts are equal. */
static inline const char *cweb_test_also(const char *value, const char *text, char *buffer, size_t size) {
    if (strcmp(value, text) == 0) {
        return "";
    }
    snprintf(buffer, size, " (%s)", text);
    return buffer;
}

static inline void cweb_test_same_number(const char *file, int line, const char *actual_text, long long actual,
                                         const char *expected_text, long long expected) {
    char value[32];
    char also[256];
    if (actual == expected) {
        return;
    }
    snprintf(value, sizeof value, "%lld", expected);
    cweb_test_fail(file, line, "%s is %lld, expected %s%s", actual_text, actual, value,
                   cweb_test_also(value, expected_text, also, sizeof also));
}

static inline void cweb_test_same_text(const char *file, int line, const char *actual_text, const char *actual,
                                       const char *expected) {
    if (actual == NULL || expected == NULL) {
        if (actual != expected) {
            cweb_test_fail(file, line, "%s is %s%.1500s%s, expected %s%.1500s%s", actual_text, actual ? "\"" : "",
                           actual ? actual : "NULL", actual ? "\"" : "", expected ? "\"" : "",
                           expected ? expected : "NULL", expected ? "\"" : "");
        }
        return;
    }
    if (strcmp(actual, expected) != 0) {
        cweb_test_fail(file, line, "%s is \"%.1500s\", expected \"%.1500s\"", actual_text, actual, expected);
    }
}

static inline void cweb_test_has_text(const char *file, int line, const char *text_of, const char *text, const char *part) {
    if (text == NULL || part == NULL || strstr(text, part) == NULL) {
        cweb_test_fail(file, line, "%s is \"%.1500s\", which does not contain \"%.1500s\"", text_of,
                       text ? text : "NULL", part ? part : "NULL");
    }
}

static inline void cweb_test_same_bytes(const char *file, int line, const char *actual_text, const void *actual,
                                        size_t actual_length, const void *expected, size_t expected_length) {
    const unsigned char *a = (const unsigned char *)actual;
    const unsigned char *b = (const unsigned char *)expected;
    if (actual_length != expected_length) {
        cweb_test_fail(file, line, "%s has %zu bytes, expected %zu", actual_text, actual_length, expected_length);
    }
    for (size_t i = 0; i < actual_length; i++) {
        if (a[i] != b[i]) {
            cweb_test_fail(file, line, "byte %zu of %s is 0x%02x, expected 0x%02x", i, actual_text, a[i], b[i]);
        }
    }
}

/** Fails the test with formatted text. */
#define CWEB_FAIL(...) cweb_test_fail(__FILE__, __LINE__, __VA_ARGS__)

/** The condition is true. */
#define CWEB_ASSERT(condition)                                                                                             \
    do {                                                                                                                   \
        if (!(condition)) {                                                                                                \
            cweb_test_fail(__FILE__, __LINE__, "%s is false", #condition);                                                 \
        }                                                                                                                  \
    } while (0)

/** Two integers are equal. */
#define CWEB_ASSERT_EQ(actual, expected)                                                                                   \
    cweb_test_same_number(__FILE__, __LINE__, #actual, (long long)(actual), #expected, (long long)(expected))

/** Two integers compare as the operator says: CWEB_ASSERT_CMP(count, >=, 3). */
#define CWEB_ASSERT_CMP(actual, operator_, expected)                                                                       \
    do {                                                                                                                   \
        long long cweb_a_ = (long long)(actual), cweb_b_ = (long long)(expected);                                          \
        if (!(cweb_a_ operator_ cweb_b_)) {                                                                                \
            cweb_test_fail(__FILE__, __LINE__, "%s is %lld, expected " #operator_ " %lld", #actual, cweb_a_, cweb_b_);     \
        }                                                                                                                  \
    } while (0)

/** Two numbers differ by at most epsilon. */
#define CWEB_ASSERT_NEAR(actual, expected, epsilon)                                                                        \
    do {                                                                                                                   \
        double cweb_a_ = (double)(actual), cweb_b_ = (double)(expected);                                                   \
        double cweb_d_ = cweb_a_ > cweb_b_ ? cweb_a_ - cweb_b_ : cweb_b_ - cweb_a_;                                        \
        if (!(cweb_d_ <= (double)(epsilon))) {                                                                             \
            cweb_test_fail(__FILE__, __LINE__, "%s is %g, expected %g", #actual, cweb_a_, cweb_b_);                        \
        }                                                                                                                  \
    } while (0)

/** Two C strings are equal; NULL equals NULL only. */
#define CWEB_ASSERT_STR(actual, expected) cweb_test_same_text(__FILE__, __LINE__, #actual, actual, expected)

/** A C string contains another one. */
#define CWEB_ASSERT_CONTAINS(text, part) cweb_test_has_text(__FILE__, __LINE__, #text, text, part)

/** Two ranges of bytes are equal. */
#define CWEB_ASSERT_MEM(actual, actual_length, expected, expected_length)                                                  \
    cweb_test_same_bytes(__FILE__, __LINE__, #actual, actual, actual_length, expected, expected_length)

/** Ends the test as skipped. */
__attribute__((noreturn)) static inline void cweb_test_skip(const char *reason) {
    if (cweb_test_binding.host != NULL) {
        cweb_test_binding.host->skipped(reason);
    }
    cweb_exit_handler(0, "cweb_test_skip");
}

/* Stubs that replace the host on a server, where the tests of a module never run. */
static inline const struct cweb_test_host *cweb_test_host_or_exit(void) {
    if (cweb_test_binding.host == NULL) {
        fprintf(stderr, "a function of cweb_test.h was called outside of cweb test\n");
        cweb_exit_handler(1, "cweb_test.h");
    }
    return cweb_test_binding.host;
}

/* ---- Requests ---- */

/**
 * Makes a request to the module and waits for the whole answer, also one that is sent in pieces.
 *
 * Host, and Content-Length of a body, are added unless headers has them.
 * @param method   "GET", "POST", …
 * @param target   path and query, as they stand in a request: percent-encoded
 * @param headers  header fields, a line each ("Content-Type: text/plain\nCookie: a=b"); NULL: none
 * @param data     the body; NULL: none
 * @param length   its length in bytes
 * @return never NULL: a request that no route answers gets the server's own answer (404, 405, 426)
 */
static inline const cweb_test_response_t *cweb_test_request_data(const char *method, const char *target,
                                                                 const char *headers, const void *data, size_t length) {
    return cweb_test_host_or_exit()->request(method, target, headers, data, data == NULL ? 0 : length);
}

/** As cweb_test_request_data(), with a body that is a C string or NULL. */
static inline const cweb_test_response_t *cweb_test_request(const char *method, const char *target, const char *headers,
                                                            const char *body) {
    return cweb_test_request_data(method, target, headers, body, body == NULL ? 0 : strlen(body));
}

/** The value of an answer's header field: the first field of that name, in any case. NULL if there is none. */
static inline const char *cweb_test_header(const cweb_test_response_t *response, const char *name) {
    return cweb_test_host_or_exit()->header(response, name);
}

/**
 * Sets a setting of the module for the rest of this test, or removes it (value NULL). @return 0, or -1: the key is
 * invalid
 */
static inline int cweb_test_setting(const char *key, const char *value) {
    return cweb_test_host_or_exit()->setting(key, value);
}

/* ---- Jobs: jobs_create() queues them here, and they run when the test calls for it ---- */

/** Runs all waiting jobs, the oldest first, and the jobs that they create. @return how many jobs ran */
static inline size_t cweb_test_run_jobs(void) {
    return cweb_test_host_or_exit()->run_jobs();
}

/** A job by its UUID; NULL: there is none. Call the function again after the job has run. */
static inline const cweb_test_job_t *cweb_test_job(const char *uuid) {
    return cweb_test_host_or_exit()->job(uuid);
}

/** A job by its index in the order of creation, from 0 on; NULL: there is none. */
static inline const cweb_test_job_t *cweb_test_job_at(size_t index) {
    return cweb_test_host_or_exit()->job_at(index);
}

/* ---- WebSockets ---- */

/**
 * Opens a WebSocket: asks a route with CWEB_HANDSHAKE, if there is one on the path, and runs on_open.
 * @param headers  as of cweb_test_request_data()
 * @param refusal  receives the answer that refuses the socket; may be NULL
 * @return NULL: the socket was refused
 */
static inline cweb_test_socket_t *cweb_test_ws_open(const char *target, const char *headers,
                                                    const cweb_test_response_t **refusal) {
    return cweb_test_host_or_exit()->ws_open(target, headers, refusal);
}

/**
 * Sends a message to the module and waits until on_message has returned.
 * @param type  CWEB_WS_TEXT or CWEB_WS_BINARY
 * @return 0, or -1 when the socket is closed
 */
static inline int cweb_test_ws_send(cweb_test_socket_t *socket, int type, const void *data, size_t length) {
    return cweb_test_host_or_exit()->ws_send(socket, type, data, length);
}

/** Sends a C string as text; see cweb_test_ws_send(). */
static inline int cweb_test_ws_send_text(cweb_test_socket_t *socket, const char *text) {
    return cweb_test_ws_send(socket, CWEB_WS_TEXT, text, strlen(text));
}

/**
 * Takes the oldest message that the module has sent to the socket, directly or through a room of the socket.
 * @param wait_ms  how long to wait for a message, in milliseconds; 0: not at all
 * @return NULL: no message arrived
 */
static inline const cweb_test_message_t *cweb_test_ws_receive(cweb_test_socket_t *socket, int wait_ms) {
    return cweb_test_host_or_exit()->ws_receive(socket, wait_ms);
}

/** 1 if the module has closed the socket, else 0. */
static inline int cweb_test_ws_is_closed(cweb_test_socket_t *socket) {
    return cweb_test_host_or_exit()->ws_is_closed(socket);
}

/**
 * Closes the socket from the client's side; waits until on_close has returned. Sockets still open at the end of a
 * test are closed.
 */
static inline void cweb_test_ws_close(cweb_test_socket_t *socket) {
    cweb_test_host_or_exit()->ws_close(socket);
}

/* ---- Work beside requests ---- */

/** Waits until the work of scheduler_add() has run, at most wait_ms milliseconds. @return 0, or -1: some work has not run yet */
static inline int cweb_test_settle(int wait_ms) {
    return cweb_test_host_or_exit()->settle(wait_ms);
}

/** An empty directory of this test to which the module may write; the runner removes it after the test. */
static inline const char *cweb_test_dir(void) {
    return cweb_test_host_or_exit()->dir();
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_TEST_H */
