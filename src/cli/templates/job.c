/* @NAME@: a background job that counts, and reports as it goes. POST /@NAME@ creates one. */
#include <cweb.h>
#include <unistd.h>

static int count(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx, (void)payload;
    for (int step = 1; step <= 3; step++) {
        if (job->is_canceled(job)) {
            return -1;
        }
        cweb_job_progress(job, step, 3);
        usleep(10 * 1000);
    }
    job->set_result(job, "{\"counted\": 3}");
    return 0;
}

static int create(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    cweb_uuid_t uuid;
    if (jobs_create("@NAME@-count", "{}", &uuid) != 0) {
        return cweb_respond(res, HTTP_500_INTERNAL_SERVER_ERROR, "text/plain", "no job was made\n");
    }
    return cweb_respond(res, HTTP_200_OK, "text/plain", "%s\n", uuid_c_str(&uuid));
}

export module_t config = {
    .name = "@NAME@",
    .author = "",
    .routes = {{"/@NAME@", "POST", create, NONE}},
    .size = 1,
    .jobs = {{.name = "@NAME@-count", .run = count}},
    .job_size = 1,
};
