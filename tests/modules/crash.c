/* Jobs for a server that is killed while they run. Each run leaves a line with its job's UUID in runs.log. */
#include <cweb.h>
#include <fcntl.h>
#include <unistd.h>

static long long number(json_t *payload, const char *name) {
    return json_integer_value(json_object_get(payload, name));
}

/* In one write, which a kill can't cut: what is in the file has begun to run. */
static int leave_trace(const job_ctx_t *job) {
    char line[64];
    int length = snprintf(line, sizeof line, "%s\n", job->job_uuid);
    int file = open("runs.log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    int written = file >= 0 && write(file, line, (size_t)length) == length;
    if (file >= 0) {
        close(file);
    }
    return written ? 0 : 1;
}

static int emit_steps(job_ctx_t *job, long long total, long long delay_us) {
    char data[64];
    for (long long step = 1; step <= total; step++) {
        snprintf(data, sizeof data, "{\"n\":%lld}", step);
        if (job->emit_event(job, "step", data) != 0) {
            return 1;
        }
        if (delay_us > 0) {
            usleep((useconds_t)delay_us);
        }
    }
    return 0;
}

static int instant(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx, (void)payload;
    return leave_trace(job);
}

/* Emits "n" numbered events, "delay_us" apart; its first "fail" runs in one life of the server fail after that. */
static int steps(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    json_t *json = json_loadb(payload->json, payload->json_len, 0, NULL);
    long long total = number(json, "n"), delay_us = number(json, "delay_us"), fail = number(json, "fail");
    json_decref(json);
    if (leave_trace(job) != 0 || emit_steps(job, total, delay_us) != 0) {
        return 1;
    }
    if (fail > 0) {
        char name[64];
        snprintf(name, sizeof name, "runs-%s", job->job_uuid);
        intptr_t runs = (intptr_t)container_get(ctx->cache, name) + 1;
        container_set(ctx->cache, name, (void *)runs);
        if (runs <= fail) {
            return 1;
        }
    }
    return job->set_result(job, "\"all\"");
}

export module_t config = {
    .name = "crash",
    .author = "test",
    .jobs = {{"instant", instant, NULL}, {"steps", steps, NULL}, {"keyed", steps, NULL}},
    .job_size = 3,
};
