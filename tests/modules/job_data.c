/* Jobs that keep checkpoints, and work on files. */
#include <cweb_job.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct state {
    long long next;
    char pad[504];
};

static const char *text_of(json_t *json, const char *name) {
    const char *text = json_string_value(json_object_get(json, name));
    return text == NULL ? "" : text;
}

/* Ends its first run in the way that the payload names. */
static int end_by(const char *how, job_ctx_t *job) {
    if (strcmp(how, "crash") == 0) {
        raise(SIGSEGV);
    } else if (strcmp(how, "kill") == 0) {
        kill(getpid(), SIGKILL);
        pause();
    } else if (strcmp(how, "wait") == 0) {
        job->emit_event(job, "waiting", NULL);
        while (!job->is_canceled(job)) {
            usleep(5000);
        }
    } else if (strcmp(how, "error") == 0) {
        job->set_error(job, "on purpose");
    }
    return -1;
}

/* Ten steps, each with an event; the first run ends by "how" before the last step. */
static int steps(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx;
    struct state state = {0};
    const void *saved;
    size_t length;
    int resumed = cweb_job_resume(job, &saved, &length);
    if (resumed == 1 && length == sizeof state) {
        memcpy(&state, saved, sizeof state);
    }
    long long from = state.next;
    json_t *json = json_loadb(payload->json, payload->json_len, 0, NULL);
    char how[16], text[64];
    snprintf(how, sizeof how, "%s", text_of(json, "how"));
    json_decref(json);
    for (; state.next < 10;) {
        if (state.next == 9 && from == 0) {
            return end_by(how, job);
        }
        snprintf(text, sizeof text, "%lld", state.next++);
        job->emit_event(job, "step", text);
        if (cweb_job_checkpoint(job, &state, sizeof state) != 0) {
            return 1;
        }
    }
    snprintf(text, sizeof text, "{\"from\":%lld,\"resumed\":%d}", from, resumed);
    return job->set_result(job, text);
}

#define EXPECT(condition) \
    if (!(condition)) { \
        char what[256]; \
        snprintf(what, sizeof what, "line %d: %s (errno %d)", __LINE__, #condition, errno); \
        job->set_error(job, what); \
        return -1; \
    }

/* Calls that the functions refuse; the server's limit is 1000 bytes. */
static int refusals(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx, (void)payload;
    static char large[1001];
    const void *saved = large;
    size_t length = 7;
    int runs = cweb_job_resume(job, &saved, &length);
    if (runs == 1) {
        /* The second run: the refused one has not taken the place of the one before it. */
        EXPECT(length == 4 && memcmp(saved, "good", 4) == 0);
        const void *again;
        EXPECT(cweb_job_checkpoint(job, "", 0) == 0 && cweb_job_resume(job, &again, &length) == 1 && again == saved);
        EXPECT(job->set_result(job, "\"refused\"") == 0);
        EXPECT(cweb_job_checkpoint(job, "x", 1) == -1 && errno == ECANCELED);
        return 0;
    }
    EXPECT(runs == 0 && saved == NULL && length == 0);
    EXPECT(job->checkpoint(job, "good", 4) == 0);
    EXPECT(cweb_job_checkpoint(job, large, sizeof large) == -1 && errno == EMSGSIZE);
    EXPECT(cweb_job_checkpoint(job, large, (size_t)-1) == -1 && errno == EMSGSIZE);
    EXPECT(cweb_job_checkpoint(job, NULL, 1) == -1 && errno == EINVAL);
    EXPECT(cweb_job_checkpoint(NULL, "x", 1) == -1 && errno == ENOSYS);
    EXPECT(cweb_job_resume(job, NULL, &length) == -1 && errno == EINVAL);
    return 7;
}

static int kept = -1;

/* Copies "in" to "out.bin", and sets the number of bytes as the result. If "how" is given, the first run ends that way after the copy. */
static int copy(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx;
    char piece[65536];
    json_t *json = json_loadb(payload->json, payload->json_len, 0, NULL);
    char how[16], text[64];
    snprintf(how, sizeof how, "%s", text_of(json, "how"));
    int leaves_open = json_is_true(json_object_get(json, "leave_open"));
    json_decref(json);
    int in = cweb_job_file(job, "in"), out = cweb_job_output(job, "out.bin");
    EXPECT(in >= 0 && out >= 0);
    EXPECT(lseek(out, 0, SEEK_END) == 0);
    long long bytes = 0;
    ssize_t got;
    while ((got = read(in, piece, sizeof piece)) > 0) {
        EXPECT(write(out, piece, (size_t)got) == got);
        bytes += got;
    }
    EXPECT(got == 0 && close(in) == 0);
    const void *saved;
    size_t length;
    if (how[0] != '\0' && cweb_job_resume(job, &saved, &length) == 0) {
        EXPECT(cweb_job_checkpoint(job, "x", 1) == 0);
        return end_by(how, job);
    }
    if (leaves_open) {
        kept = out;
    } else {
        close(out);
    }
    snprintf(text, sizeof text, "%lld", bytes);
    return job->set_result(job, text);
}

/* Writes behind the back of the job that has left its output open. */
static int scribble(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx, (void)payload;
    EXPECT(kept >= 0 && pwrite(kept, "scribbled", 9, 0) == 9 && close(kept) == 0);
    return 0;
}

/* Calls that the functions of files refuse; "in" is given. */
static int file_refusals(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx;
    int in = cweb_job_file(job, "in");
    EXPECT(in >= 0 && write(in, "x", 1) == -1 && ftruncate(in, 0) == -1);
    if (strcmp(payload->json, "\"process\"") == 0) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fd/%d", in);
        EXPECT(open(path, O_RDWR) == -1);
        int out = cweb_job_output(job, "0");
        static const char *const closed[] = {"blobs", "../blobs", "job-files", "blobs/incoming", "jobs.sqlite3"};
        for (size_t i = 0; i < sizeof closed / sizeof closed[0]; i++) {
            EXPECT(open(closed[i], O_RDONLY) == -1);
        }
        /* The way from the file to its directory, and a second name for it. */
        EXPECT(fchmod(in, 0600) == -1);
        EXPECT(linkat(AT_FDCWD, path, AT_FDCWD, "static/linked", AT_SYMLINK_FOLLOW) == -1);
        close(out);
    }
    EXPECT(cweb_job_file(job, "other") == -1 && errno == ENOENT);
    EXPECT(cweb_job_file(job, NULL) == -1 && errno == EINVAL);
    EXPECT(cweb_job_file(NULL, "in") == -1 && errno == ENOSYS);
    static const char *const wrong[] = {"", ".", "..", "../x", "a/b", ".hidden", "a\nb", "\xff"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        EXPECT(cweb_job_output(job, wrong[i]) == -1 && errno == EINVAL);
    }
    char name[8];
    for (int i = 0; i < 64; i++) {
        snprintf(name, sizeof name, "%d", i);
        int out = cweb_job_output(job, name);
        EXPECT(out >= 0 && close(out) == 0);
    }
    EXPECT(cweb_job_output(job, "more") == -1 && errno == EMFILE);
    int again = cweb_job_output(job, "0");
    EXPECT(again >= 0 && write(again, "zero", 4) == 4);
    close(in);
    close(again);
    EXPECT(job->set_result(job, "\"refused\"") == 0);
    EXPECT(cweb_job_output(job, "0") == -1 && errno == ECANCELED);
    return 0;
}

/* Writes until it is told to end. */
static int flood(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx, (void)payload;
    char piece[65536];
    int out = cweb_job_output(job, "flood");
    EXPECT(out >= 0);
    while (!job->is_canceled(job) && write(out, piece, sizeof piece) > 0) {
        usleep(1000);
    }
    close(out);
    return 0;
}

/* Events of bytes; the server's limits are 1000 bytes and 4 events. */
static int frames(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx, (void)payload;
    unsigned char bytes[1001];
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (unsigned char)(i * 7);
    }
    EXPECT(cweb_job_emit_bytes(job, "frame", bytes, 1000) == 0);
    EXPECT(cweb_job_emit_bytes(job, "frame", bytes, 1000) == 0);
    EXPECT(job->emit_event(job, "step", "1") == 0);
    EXPECT(cweb_job_emit_bytes(job, "frame", NULL, 0) == 0);
    EXPECT(cweb_job_emit_bytes(job, "frame", bytes, sizeof bytes) == -1 && errno == EMSGSIZE);
    EXPECT(cweb_job_emit_bytes(job, "frame", bytes, (size_t)-1) == -1 && errno == EMSGSIZE);
    EXPECT(cweb_job_emit_bytes(job, "frame", NULL, 1) == -1 && errno == EINVAL);
    EXPECT(cweb_job_emit_bytes(job, NULL, bytes, 1) == -1 && errno == EINVAL);
    EXPECT(cweb_job_emit_bytes(job, "", bytes, 1) == -1 && errno == EINVAL);
    EXPECT(cweb_job_emit_bytes(NULL, "frame", bytes, 1) == -1 && errno == ENOSYS);
    EXPECT(cweb_job_emit_bytes(job, "frame", bytes, 1) == -1 && errno == EDQUOT);
    return 0;
}

export module_t config = {
    .name = "job_data",
    .author = "test",
    .jobs = {{.name = "steps", .run = steps, .max_attempts = 2, .backoff_ms = 1},
             {.name = "refusals", .run = refusals, .max_attempts = 2, .backoff_ms = 1},
             {.name = "copy", .run = copy, .max_attempts = 2, .backoff_ms = 1},
             {.name = "scribble", .run = scribble},
             {.name = "file_refusals", .run = file_refusals},
             {.name = "flood", .run = flood},
             {.name = "frames", .run = frames}},
    .job_size = 7,
};
