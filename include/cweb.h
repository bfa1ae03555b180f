/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file cweb.h
 * The interface between a module and the server. A module is one C file that includes this header and exports a
 * `config`:
 *
 *     #include <cweb.h>
 *
 *     static int hello(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
 *         (void)ctx, (void)req;
 *         return cweb_respond(res, HTTP_200_OK, "text/plain", "Hello!\n");
 *     }
 *
 *     export module_t config = {
 *         .name = "hello",
 *         .author = "you",
 *         .routes = {{"/hello", "GET", hello, NONE}},
 *         .size = 1,
 *     };
 *
 * Deploy it: curl --data-binary @hello.c http://127.0.0.1:8080/mgnt
 *
 * Handlers run on several threads at once: guard what they share. A fault in one (SIGSEGV, abort, stack overflow …) or
 * a call of exit(3) ends that call with 500. Locks and memory that the call held stay held.
 */
#ifndef CWEB_H
#define CWEB_H

#include <regex.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "http.h"
#include "uuid.h"
#include "cweb_config.h"
#include "cweb_host.h"
#include "container.h"
#include "scheduler.h"
#include "db.h"
#include "crypto.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Marks the one symbol that the server looks up. */
#define CWEB_EXPORT __attribute__((visibility("default")))
/* In C++, export is a keyword of the language's modules; modules of the server are something else. */
#define export CWEB_EXPORT

/* ---- The arguments of a module's functions ---- */

/** Functions and data of other modules. */
struct symbols {
    void *user_data;
    /**
     * The address of an exported symbol of the module with this name; NULL if there is none. Look the symbol up for
     * each use: the address changes when that module is replaced.
     */
    void *(*resolv)(void *user_data, const char *module, const char *symbol);
};

struct job_system;

/** The server's services; the same for every call. */
typedef struct cweb_context {
    struct container *cache;     /**< Named pointers, shared by the modules of a domain, that outlive hot swaps: container.h */
    struct scheduler *scheduler; /**< Work for later: scheduler.h */
    struct sqldb *database;      /**< The SQLite database of the domain: db.h */
    struct crypto *crypto;       /**< Signatures with the server's key: crypto.h */
    struct symbols *symbols;     /**< Functions of other modules */
    struct job_system *jobs;     /**< The server's; see jobs_create() */
    void *reserved[8];           /* NULL */
} cweb_context_t;

/* ---- Routes ---- */

/**
 * A handler, which fills in the response. Its return value is ignored, except for answers in pieces (cweb_stream.h). There, a
 * negative value ends an answer that the handler has begun, so that the client notices that the answer is incomplete. If the
 * handler of a CWEB_STREAM route has left the response untouched, a negative value is answered 500. In any other route,
 * `return -1` sends the response as it is, 200 and empty if it is untouched: set the status, as cweb_respond() does.
 */
typedef int (*entry_t)(struct cweb_context *, http_request_t *, http_response_t *);

/** The lowest bits of route_info_t.flags; see CWEB_TIMEOUT_S() and CWEB_BODY_MIB() for the other bits. */
typedef enum {
    NONE = 0,
    /** The handler takes microseconds and never waits: it may run on the thread that serves the connection. */
    CWEB_INLINE = 1,
    /**
     * The handler starts once the head of the request has arrived, and takes the body piece by piece: cweb_stream.h.
     * The handler has a thread of its own while it runs. req->body is empty; CWEB_BODY_MIB() limits the whole body, and
     * without it there is no limit.
     */
    CWEB_STREAM = 16,
    /**
     * A compressed request body (Content-Encoding: br, zstd or gzip) is expanded before the handler runs. The limit of
     * the route applies to the expanded body (413); a malformed body is answered 400. Refused beside CWEB_STREAM.
     */
    CWEB_DECODE = 32,
    /**
     * Answers are sent uncompressed: for a secret beside text that a stranger chooses (BREACH, see docs/files.md). As a flag of
     * a WebSocket path: the server agrees on no compression there, and messages are sent uncompressed.
     */
    CWEB_NO_COMPRESS = 64,
    /**
     * The handler is called before a WebSocket is opened on the same path of the module; its method is GET. Its request
     * is the handshake. The handler accepts the handshake with HTTP_200_OK, which is the initial status, or 101. Header
     * fields that it sets are sent with the 101, and cweb_ws_choose() names a subprotocol. With any other status the
     * handler refuses, and its response is the answer.
     */
    CWEB_HANDSHAKE = 128,
    /**
     * Each call runs in a process of its own, forked from the module's process in its state after onload. The flag is
     * for code that may hang or crash and can't be fixed, such as a library. At its deadline (CWEB_TIMEOUT_S(),
     * --handler-timeout-ms or the client's own limit) the process is killed and the request answered 504; a crash is
     * answered 500. No other call of the module is affected. The handler can read the data that onload has set up; its
     * own changes are lost at its end. The handler must answer as a whole: streams, the database, jobs, WebSockets and the
     * scheduler fail with ENOTSUP (docs/streams.md). Refused beside CWEB_INLINE, CWEB_STREAM and CWEB_HANDSHAKE. With
     * --isolation none, and in cweb test, the flag has no effect.
     */
    CWEB_KILLABLE = -2147483647 - 1
} cweb_feature_flag_t;

/* n, or a compile-time error unless low <= n <= high. */
#define CWEB_CHECKED(n, low, high) ((int)sizeof(char[(n) >= (low) && (n) <= (high) ? 1 : -1]) * (int)(n))

/**
 * For route_info_t.flags: the handler may run for n seconds, 1 to 4095, instead of the server's --handler-timeout-ms.
 * Like that option, the 504 for a handler that does not return needs --isolation process. cweb_remaining_ms(),
 * cweb_canceled(), and the reads and writes of cweb_stream.h follow the limit in both modes:
 * {"/report", "GET", report, CWEB_TIMEOUT_S(120)}
 */
#define CWEB_TIMEOUT_S(n) (CWEB_CHECKED(n, 1, 4095) << 8)

/**
 * For route_info_t.flags: the body of a request may have n MiB, 1 to 2047, instead of the server's --body-bytes-max, but
 * no more than its --route-body-bytes-max: {"/upload", "POST", upload, CWEB_BODY_MIB(32) | CWEB_TIMEOUT_S(120)}
 */
#define CWEB_BODY_MIB(n) (CWEB_CHECKED(n, 1, 2047) << 20)

/** A route. */
typedef struct route_info {
    /** POSIX extended regular expression for the whole path, e.g. "/user/[0-9]+"; a segment ":name" is any one segment: cweb_param() */
    const char *path;
    const char *method; /**< "GET", "POST", … */
    entry_t handler;
    int flags; /**< Bits of cweb_feature_flag_t, CWEB_TIMEOUT_S(), CWEB_BODY_MIB(); others are ignored */
    regex_t regex;      /**< Not used: a module leaves it zero. */
    int regex_compiled; /**< Likewise. */
} route_info_t;

/* ---- WebSockets ---- */

/** A WebSocket path. Each function may be NULL. The functions of one socket run one at a time, in order. */
typedef struct ws_info {
    /**
     * A literal path. A path with a segment `:name` or any of []()*+?{}|^$\ is a pattern like that of a route, whose
     * captures cweb_ws_request() has. A dot alone makes no pattern.
     */
    const char *path;
    void (*on_open)(struct cweb_context *, websocket_t *);
    /** A NUL follows the length bytes of the message. */
    void (*on_message)(struct cweb_context *, websocket_t *, const char *message, size_t length);
    /** The last call for this socket; its pointer is invalid afterwards. */
    void (*on_close)(struct cweb_context *, websocket_t *);
    /** CWEB_INLINE: each function takes microseconds and never waits; CWEB_NO_COMPRESS. Other bits are ignored. */
    int flags;
} websocket_info_t;

/* ---- Jobs ---- */

/** The payload with which the job was created. */
typedef struct job_payload {
    const char *json; /**< NUL-terminated */
    size_t json_len;
} job_payload_t;

struct cweb_job_data;

/** A running job; valid until its run function returns. */
typedef struct job_ctx {
    const char *job_uuid;
    /**
     * Stores an event and sends it to all watchers of the job, in the order of the calls, also after set_result or
     * set_error. data_json: JSON; any other text is stored as a string; NULL is stored as null. Waits while the
     * server's queue of events is full. 0, or -1: type is NULL or empty, the job is canceled or has timed out, or the
     * data is larger than the server's limit.
     */
    int (*emit_event)(struct job_ctx *job, const char *type, const char *data_json);
    /**
     * Ends the job as done with this result: JSON, or any text. The first call of set_result or set_error decides;
     * the return value of run does not matter any more.
     * @return 0; -1 when one of the two was called before, the text is NULL or too large, or the job is canceled or has
     * timed out
     */
    int (*set_result)(struct job_ctx *job, const char *result_json);
    /**
     * Ends the job as failed with this text. A job that may run again (max_attempts) is retried instead, once run has
     * returned.
     * @return as set_result
     */
    int (*set_error)(struct job_ctx *job, const char *error_text);
    /** 1 once the job has been canceled: stop soon. See cweb_job_canceled(). */
    int (*is_canceled)(struct job_ctx *job);
    void *server;      /* the server's */
    /* cweb_job_remaining_ms() of cweb_stream.h */
    long long (*remaining_ms)(struct job_ctx *job);
    /** cweb_job_checkpoint() of <cweb_job.h>, as a member. */
    int (*checkpoint)(struct job_ctx *job, const void *bytes, size_t length);
    const struct cweb_job_data *data; /* see <cweb_job.h> */
    void *reserved[1];                /* NULL */
} job_ctx_t;

/**
 * Does the job. If the function sets neither result nor error, its return value decides: 0 is done, anything else is
 * failed.
 */
typedef int (*job_run_t)(struct cweb_context *, const job_payload_t *, job_ctx_t *);

/** A kind of job. For a field that is 0 the server's default applies. */
typedef struct job_info {
    const char *name;
    job_run_t run;
    /** Called, on another thread, when a running job is canceled; may be NULL. */
    void (*cancel)(struct cweb_context *, const char *job_uuid);
    int max_attempts; /**< Limit on the runs of a job whose runs fail */
    int backoff_ms;   /**< Pause before the second run; doubles with each further run */
    int timeout_ms;   /**< Limit on the time of a run */
    int priority;     /**< Jobs with a higher priority run first */
    int concurrency;  /**< Limit on simultaneous runs of this job */
    /**
     * The schedule of the job: a cron text of five fields (minute, hour, day of month, month, day of week), or of six
     * fields with seconds first, or "@hourly" and similar. NULL: the job runs only when it is submitted. See
     * docs/jobs.md.
     */
    const char *schedule;
    const char *timezone; /**< Time zone of the schedule: an IANA name such as "Europe/Berlin"; NULL: UTC */
    const char *schedule_payload; /**< Payload of the scheduled jobs: JSON of at most 64 KiB; NULL: "{}" */
    int schedule_overlap; /**< Not 0: a slot's job is created even while the previous slot's job runs or waits */
} job_info_t;

/* ---- Directories served without a handler ---- */

/** A directory whose files are served below a path; see docs/files.md. */
typedef struct mount_info {
    const char *prefix; /**< Begins with a slash; "/" is for requests that match no route of the module */
    const char *dir;    /**< Absolute or relative to the data directory; the operator must let modules read it */
} mount_info_t;

/* ---- The module ---- */

/** The declaration that a module exports as `config`. */
typedef struct module {
    char name[CWEB_NAME_SIZE]; /**< Unique: deploying the same name replaces the module. */
    char author[CWEB_NAME_SIZE];
    route_info_t routes[MAX_ROUTES];
    int size; /**< Routes used */
    websocket_info_t websockets[MAX_WEBSOCKETS];
    int ws_size; /**< WebSocket paths used */
    job_info_t jobs[MAX_JOBS];
    int job_size; /**< Jobs used */
    /** Runs before the first request of this version; may be NULL. */
    void (*onload)(struct cweb_context *);
    /** Runs after the last request of this version; may be NULL. Join here every thread that onload started. */
    void (*unload)(struct cweb_context *);
    mount_info_t mounts[MAX_MOUNTS];
    int mount_size; /**< Mounts used */
    /**
     * Runs after the setting or secret `key` of this module has been changed or removed; may be NULL.
     *
     * cweb_setting() returns the new value to all threads from before the call on. Requests continue meanwhile and may
     * have read either value. The calls for one module come one after the other, on a thread of the server that runs no
     * requests. Settings that were set before the module is loaded are available in onload, without a call; the same
     * holds in a restarted process. With --isolation process, a call that does not return within --hook-timeout-ms
     * makes the server replace the process. The text of key is invalid after the function has returned.
     */
    void (*on_setting)(struct cweb_context *, const char *key);
} module_t;

/* ---- Services ---- */

/**
 * Queues a job that this module declares.
 * @param payload_json  NULL counts as "{}"
 * @param uuid_out      receives its UUID; may be NULL
 * @return 0, or -1: no such job, bad JSON, or the queue accepts no more jobs
 */
static inline int jobs_create(const char *job_name, const char *payload_json, cweb_uuid_t *uuid_out) {
    cweb_uuid_t uuid;
    uuid_clear(&uuid);
    uuid_clear(uuid_out);
    if (job_name == NULL || cweb_binding.host == NULL || cweb_binding.host->jobs_create == NULL) {
        return -1;
    }
    const char *payload = payload_json != NULL ? payload_json : "{}";
    if (cweb_binding.host->jobs_create(cweb_binding.module, job_name, payload, uuid.str) != 0) {
        return -1;
    }
    if (uuid_out != NULL) {
        *uuid_out = uuid;
    }
    return 0;
}

/** The function that jobs_bind() takes. This server never calls a function of this type. */
typedef int (*jobs_create_fn_t)(void *user_data, const char *job_name, const char *payload_json,
                                cweb_uuid_t *job_uuid_out);

/** Does nothing: jobs_create() is bound when the module is loaded. The function exists for modules that call it. */
static inline void jobs_bind(jobs_create_fn_t create, void *user_data) {
    (void)create;
    (void)user_data;
}

#ifdef __cplusplus
}
#endif

#include "cweb_request.h"
#include "cweb_setting.h"
#include "cweb_websocket.h"
#include "cweb_helpers.h"

#endif /* CWEB_H */
