/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A background job that adds numbers and reports its progress. docs/jobs.md explains jobs.
 *
 *     cweb jobs submit --watch sum '{"numbers":[1,2,3.5]}'
 *
 *     curl -d '{"module":"sum","job":"sum","payload":{"numbers":[1,2,3.5]}}' http://127.0.0.1:8080/jobs
 *     curl -d '[1,2,3.5]' http://127.0.0.1:8080/sum
 *     curl http://127.0.0.1:8080/jobs/UUID
 */
#include <cweb.h>

#define PROGRESS_STEPS 10

static int fail(job_ctx_t *job, const char *why) {
    job->set_error(job, why);
    return -1;
}

/* Adds the numbers; 0, or -1 once the job has ended early. */
static int add_up(json_t *numbers, job_ctx_t *job, double *sum) {
    size_t total = json_array_size(numbers);
    size_t step = total / PROGRESS_STEPS + 1;
    for (size_t i = 0; i < total; i++) {
        json_t *number = json_array_get(numbers, i);
        if (!json_is_number(number)) {
            return fail(job, "\"numbers\" must hold numbers only");
        }
        *sum += json_number_value(number);
        if ((i + 1) % step == 0 || i + 1 == total) {
            cweb_job_progress(job, (long long)i + 1, (long long)total);
            if (cweb_job_canceled(job)) {
                return -1;
            }
        }
    }
    return 0;
}

static int run(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    double sum = 0;
    char result[64];
    (void)ctx;
    json_t *input = json_loadb(payload->json, payload->json_len, 0, NULL);
    json_t *numbers = json_object_get(input, "numbers");
    int failed = json_is_array(numbers) ? add_up(numbers, job, &sum)
                                        : fail(job, "the payload must be {\"numbers\": [...]}");
    json_decref(input);
    if (failed) {
        return failed;
    }
    snprintf(result, sizeof result, "{\"sum\":%.15g}", sum);
    return job->set_result(job, result);
}

/* The same job, started by a handler. */
static int start(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    cweb_uuid_t uuid;
    (void)ctx;
    json_t *numbers = json_loadb(req->body, (size_t)req->content_length, 0, NULL);
    json_t *payload = json_pack("{s:o}", "numbers", numbers != NULL ? numbers : json_null());
    char *text = json_dumps(payload, JSON_COMPACT);
    int created = text != NULL && jobs_create("sum", text, &uuid) == 0;
    free(text);
    json_decref(payload);
    if (!created) {
        return cweb_respond(res, HTTP_500_INTERNAL_SERVER_ERROR, "text/plain", "The job can't be queued\n");
    }
    return cweb_respond_json(res, HTTP_200_OK, json_pack("{s:s}", "job_uuid", uuid_c_str(&uuid)));
}

export module_t config = {
    .name = "sum",
    .author = "cweb",
    .routes = {{"/sum", "POST", start, NONE}},
    .size = 1,
    .jobs = {{.name = "sum", .run = run}},
    .job_size = 1,
};
