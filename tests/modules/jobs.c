/* Jobs of every kind, and routes that create and look at them. */
#include <stdatomic.h>
#include <unistd.h>

#ifndef VERSION
#define VERSION "1"
#endif

static atomic_int cancels, active, active_max, order_count;
static char order[256];

static long long number(const job_payload_t *payload, const char *name) {
    json_t *json = json_loadb(payload->json, payload->json_len, 0, NULL);
    long long value = json_integer_value(json_object_get(json, name));
    json_decref(json);
    return value;
}

static void pause_ms(long long ms) {
    usleep((useconds_t)ms * 1000);
}

static int is_uuid(const char *text) {
    cweb_uuid_t uuid;
    return uuid_from_string(&uuid, text) == 0;
}

static int echo(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx;
    return payload->json_len == strlen(payload->json) && is_uuid(job->job_uuid) ? job->set_result(job, payload->json)
                                                                                     : 1;
}

/* Emits "n" numbered events, "delay_ms" apart, "pad" blanks (at most 1,900) in each. */
static int count(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx;
    long long total = number(payload, "n"), delay = number(payload, "delay_ms"), pad = number(payload, "pad");
    char data[2048];
    for (long long i = 1; i <= total; i++) {
        if (pad > 0) {
            snprintf(data, sizeof data, "{\"n\":%lld,\"pad\":\"%*s\"}", i, (int)pad, "");
        } else {
            snprintf(data, sizeof data, "{\"n\":%lld}", i);
        }
        if (job->emit_event(job, "step", data) != 0) {
            return 1;
        }
        if (delay > 0) {
            pause_ms(delay);
        }
    }
    snprintf(data, sizeof data, "{\"n\": %lld, \"version\": \"" VERSION "\"}", total);
    return job->set_result(job, data);
}

static int quiet(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx, (void)payload, (void)job;
    return 0;
}

static int fail(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx, (void)payload, (void)job;
    return 3;
}

static int fail_with_text(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx, (void)payload;
    job->set_error(job, "no \"luck\"");
    job->set_error(job, "second");
    return -1;
}

static int crash(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx, (void)payload, (void)job;
    volatile int *volatile nowhere = NULL;
    return *nowhere;
}

/* Fails its first "fail" runs. */
static int flaky(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    char name[64];
    snprintf(name, sizeof name, "runs-%s", job->job_uuid);
    intptr_t runs = (intptr_t)container_get(ctx->cache, name) + 1;
    container_set(ctx->cache, name, (void *)runs);
    job->emit_event(job, "run", NULL);
    return runs <= number(payload, "fail") ? 1 : 0;
}

/* Text that is no JSON, and JSON of several lines. */
static int texts(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx, (void)payload;
    int refused = job->emit_event(job, "", "1") != 0 && job->emit_event(job, NULL, "1") != 0;
    refused = refused && job->set_result(job, NULL) != 0 && job->set_error(job, NULL) != 0;
    if (!refused || job->emit_event(job, "odd", "not \"json\"") != 0 || job->emit_event(job, "lines", "{\n\"a\":\r\n1}") != 0) {
        return 1;
    }
    return job->set_result(job, "plain text");
}

/* Larger than the server of the test takes. */
static int big(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx, (void)payload;
    static char text[4097];
    memset(text, '1', sizeof text - 1);
    int refused = job->emit_event(job, "big", text) != 0 && job->set_result(job, text) != 0;
    text[100] = '\0';
    return refused && job->emit_event(job, "small", text) == 0 ? job->set_result(job, text) : 1;
}

/* Runs for "ms", or until it is canceled if "listen". */
static int wait_for(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx;
    int now = atomic_fetch_add(&active, 1) + 1;
    for (int max = atomic_load(&active_max); now > max && !atomic_compare_exchange_weak(&active_max, &max, now);) {
    }
    job->emit_event(job, "waiting", "{}");
    long long ms = number(payload, "ms"), listens = number(payload, "listen");
    for (; ms > 0 && !(listens && job->is_canceled(job)); ms -= 5) {
        pause_ms(5);
    }
    atomic_fetch_sub(&active, 1);
    job->emit_event(job, "waited", "{}");
    return job->set_result(job, "\"waited\"");
}

static void on_cancel(struct cweb_context *ctx, const char *job_uuid) {
    (void)ctx;
    if (is_uuid(job_uuid)) {
        atomic_fetch_add(&cancels, 1);
    }
}

static atomic_int released;

/* Makes "calls" in their order (r: set_result, e: set_error), each with its place in the order, and tells what each
 * returned; waits for /release if "hold"; then goes on, and crashes or returns "return". */
static int decide(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx;
    char calls[16] = "", text[64];
    json_t *json = json_loadb(payload->json, payload->json_len, 0, NULL);
    snprintf(calls, sizeof calls, "%s", json_string_value(json_object_get(json, "calls")));
    json_decref(json);
    for (int i = 0; calls[i] != '\0'; i++) {
        snprintf(text, sizeof text, calls[i] == 'r' ? "{\"n\":\n%d}" : "error \"%d\"", i);
        int returned = calls[i] == 'r' ? job->set_result(job, text) : job->set_error(job, text);
        snprintf(text, sizeof text, "%d", returned);
        job->emit_event(job, "call", text);
    }
    while (number(payload, "hold") && !atomic_load(&released)) {
        pause_ms(1);
    }
    job->emit_event(job, "after", NULL);
    if (number(payload, "crash")) {
        *(volatile int *)NULL = 1;
    }
    return (int)number(payload, "return");
}

/* Writes its "id" to the record. */
static int record(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx, (void)job;
    order[atomic_fetch_add(&order_count, 1) % 255] = (char)('a' + number(payload, "id"));
    return 0;
}

static int spawn(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx, (void)payload;
    cweb_uuid_t uuid;
    return jobs_create("quiet", NULL, &uuid) == 0 ? cweb_job_progress(job, 1, 1) : 1;
}

#define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)
#define SAY(...) do { (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, __VA_ARGS__); return 0; } while (0)

H(create) {
    const char *name = http_kv_get(q->params, "job");
    cweb_uuid_t uuid;
    int made = jobs_create(name, http_kv_get(q->params, "payload"), &uuid);
    SAY("%d %s", made, made == 0 ? uuid_c_str(&uuid) : "");
}

H(cancel_count) { SAY("%d", atomic_load(&cancels)); }
H(most_at_once) { SAY("%d", atomic_load(&active_max)); }
H(recorded) { SAY("%s", order); }
H(release) { atomic_store(&released, http_kv_get(q->params, "off") == NULL); SAY("ok"); }

H(database) {
    sqlite3_stmt *rows = NULL;
    struct sqldb *db = c->database;
    int jobs = -1, events = -1;
    if (db->prepare(db, "SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM job_events)", -1, &rows, NULL) == SQLITE_OK &&
        db->step(rows) == SQLITE_ROW) {
        jobs = db->column_int(rows, 0), events = db->column_int(rows, 1);
    }
    db->finalize(rows);
    int denied = db->exec(db, "DELETE FROM jobs", NULL, NULL) != SQLITE_OK &&
                 db->exec(db, "UPDATE job_events SET type = 'x'", NULL, NULL) != SQLITE_OK &&
                 db->exec(db, "CREATE TABLE jobs (x)", NULL, NULL) != SQLITE_OK &&
                 db->exec(db, "DETACH cweb_jobs", NULL, NULL) != SQLITE_OK &&
                 db->exec(db, "DROP TABLE cweb_jobs.jobs", NULL, NULL) != SQLITE_OK &&
                 db->exec(db, "PRAGMA cweb_jobs.user_version = 9", NULL, NULL) != SQLITE_OK;
    /* A lock of the module's must not keep the server from writing. */
    int locked = db->exec(db, "BEGIN IMMEDIATE; CREATE TABLE IF NOT EXISTS own (x); COMMIT", NULL, NULL) == SQLITE_OK;
    SAY("%d %d %d %d", jobs, events, denied, locked);
}

H(hold_lock) {
    struct sqldb *db = c->database;
    cweb_uuid_t uuid;
    int begun = db->exec(db, "BEGIN IMMEDIATE; CREATE TABLE IF NOT EXISTS own (x)", NULL, NULL) == SQLITE_OK;
    int made = jobs_create("quiet", "{}", &uuid);
    int ended = db->exec(db, "COMMIT", NULL, NULL) == SQLITE_OK;
    SAY("%d %d %d", begun, made, ended);
}

export module_t config = {
    .name = "jobs",
    .author = "test",
    .routes = {{"/create", "GET", create, NONE},
               {"/cancels", "GET", cancel_count, NONE},
               {"/most", "GET", most_at_once, NONE},
               {"/recorded", "GET", recorded, NONE},
               {"/database", "GET", database, NONE},
               {"/lock", "GET", hold_lock, NONE},
               {"/release", "GET", release, NONE}},
    .size = 7,
    .jobs = {{"echo", echo, NULL},
             {"count", count, NULL},
             {"quiet", quiet, NULL},
             {"fail", fail, NULL},
             {"fail_with_text", fail_with_text, NULL},
             {"crash", crash, NULL},
             {.name = "flaky", .run = flaky, .max_attempts = 3, .backoff_ms = 1},
             {"texts", texts, NULL},
             {"big", big, NULL},
             {"wait", wait_for, on_cancel},
             {.name = "one_at_a_time", .run = wait_for, .concurrency = 1},
             {.name = "brief", .run = wait_for, .cancel = on_cancel, .timeout_ms = 40},
             {"record", record, NULL},
             {"spawn", spawn, NULL},
             {"decide", decide, NULL}},
    .job_size = 15,
};
