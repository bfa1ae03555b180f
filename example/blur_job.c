/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Shrinks and blurs a PNG image in the background: the image is a file of the job, and so is the result. Neither is in
 * memory as a whole file, and both may be larger than any request. docs/jobs.md explains files.
 *
 *     cweb jobs submit --file in=photo.png --output-dir . blur_image '{"radius":8,"shrink":2}'
 *
 *     curl -T photo.png http://127.0.0.1:8080/blobs
 *     curl -d '{"job":"blur_image","payload":{"radius":8},"files":{"in":"sha256:..."}}' http://127.0.0.1:8080/jobs
 *     curl -O http://127.0.0.1:8080/jobs/UUID/files/out.png
 */
#include <cweb.h>
#include <cweb_job.h>
#include <png.h>
#include <unistd.h>
#pragma cweb link("png")
#pragma cweb cflags("-O3")

enum { RADIUS_MAX = 100, SHRINK_MAX = 64, PIXELS_MAX = 64 * 1000 * 1000, CHANNELS = 4, PASSES = 3, REPORTS = 10 };

static int fail(job_ctx_t *job, const char *what, const char *why) {
    char text[256];
    snprintf(text, sizeof text, "%s%s%s", what, why[0] == '\0' ? "" : ": ", why);
    job->set_error(job, text);
    return -1;
}

/* Blurs `count` pixels that lie `step` bytes apart. The window's sum moves along, so a larger radius takes no longer. */
static void blur_line(const unsigned char *in, unsigned char *out, int count, size_t step, int radius) {
    for (int channel = 0; channel < CHANNELS; channel++) {
        const unsigned char *from = in + channel;
        long sum = 0;
        int window = 2 * radius + 1;
        for (int i = -radius; i <= radius; i++) sum += from[(size_t)(i < 0 ? 0 : i >= count ? count - 1 : i) * step];
        for (int i = 0; i < count; i++) {
            out[(size_t)i * step + (size_t)channel] = (unsigned char)((sum + window / 2) / window);
            int enters = i + radius + 1, leaves = i - radius;
            sum += from[(size_t)(enters >= count ? count - 1 : enters) * step];
            sum -= from[(size_t)(leaves < 0 ? 0 : leaves) * step];
        }
    }
}

/* Reports the progress, ten times in all. -1: the job must end. */
static int report(job_ctx_t *job, int done, int total) {
    int step = total / REPORTS + 1;
    if (done % step == 0 || done == total) cweb_job_progress(job, done, total);
    return cweb_job_canceled(job) ? -1 : 0;
}

/* Three passes of a box blur, close to a Gaussian one. */
static int blur_all(unsigned char *pixels, unsigned char *other, int width, int height, int radius, job_ctx_t *job) {
    size_t stride = (size_t)width * CHANNELS;
    for (int pass = 0; pass < PASSES; pass++) {
        for (int y = 0; y < height; y++) {
            blur_line(pixels + (size_t)y * stride, other + (size_t)y * stride, width, CHANNELS, radius);
        }
        for (int x = 0; x < width; x++) {
            blur_line(other + x * CHANNELS, pixels + x * CHANNELS, height, stride, radius);
            if (report(job, pass * width + x + 1, PASSES * width) != 0) return -1;
        }
    }
    return 0;
}

/* Each pixel becomes the mean of `by` times `by` pixels, in place. */
static void shrink(unsigned char *pixels, int *width, int *height, int by) {
    int to_width = *width / by, to_height = *height / by;
    for (int y = 0; y < to_height; y++) {
        for (int x = 0; x < to_width * CHANNELS; x++) {
            long sum = 0;
            for (int i = 0; i < by * by; i++) {
                size_t row = (size_t)(y * by + i / by) * (size_t)*width;
                sum += pixels[(row + (size_t)(x / CHANNELS * by + i % by)) * CHANNELS + (size_t)(x % CHANNELS)];
            }
            pixels[(size_t)y * (size_t)to_width * CHANNELS + (size_t)x] = (unsigned char)(sum / (by * by));
        }
    }
    *width = to_width;
    *height = to_height;
}

static int work(png_image *image, unsigned char *pixels, unsigned char *other, int radius, int by, job_ctx_t *job) {
    int width = (int)image->width, height = (int)image->height;
    if (by > 1) shrink(pixels, &width, &height, by);
    if (width < 1 || height < 1) return fail(job, "the image is smaller than \"shrink\"", "");
    if (radius > 0 && blur_all(pixels, other, width, height, radius, job) != 0) return -1;
    image->width = (png_uint_32)width;
    image->height = (png_uint_32)height;
    int fd = cweb_job_output(job, "out.png");
    FILE *out = fd < 0 ? NULL : fdopen(fd, "wb");
    if (out == NULL) return fail(job, "out.png can't be made", strerror(errno));
    int written = png_image_write_to_stdio(image, out, 0, pixels, 0, NULL);
    if (fclose(out) != 0 || !written) return fail(job, "out.png can't be written", image->message);
    char result[64];
    snprintf(result, sizeof result, "{\"width\":%d,\"height\":%d}", width, height);
    return job->set_result(job, result);
}

static int blur_image(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx;
    json_t *input = json_loadb(payload->json, payload->json_len, 0, NULL);
    json_t *wanted = json_object_get(input, "radius"), *factor = json_object_get(input, "shrink");
    long long radius = wanted == NULL ? 4 : json_integer_value(wanted);
    long long by = factor == NULL ? 1 : json_integer_value(factor);
    json_decref(input);
    if (radius < 0 || radius > RADIUS_MAX || by < 1 || by > SHRINK_MAX) {
        return fail(job, "radius: 0 to 100 pixels; shrink: 1 to 64", "");
    }
    int fd = cweb_job_file(job, "in");
    FILE *in = fd < 0 ? NULL : fdopen(fd, "rb");
    if (in == NULL) return fail(job, "submit the image as the file \"in\"", strerror(errno));
    png_image image = {.version = PNG_IMAGE_VERSION};
    unsigned char *pixels = NULL, *other = NULL;
    int result = -1;
    if (!png_image_begin_read_from_stdio(&image, in)) {
        result = fail(job, "the file is no PNG image", image.message);
        goto out;
    }
    image.format = PNG_FORMAT_RGBA;
    if ((size_t)image.width * image.height > PIXELS_MAX) {
        result = fail(job, "the image has more than 64 million pixels", "");
        goto out;
    }
    pixels = malloc(PNG_IMAGE_SIZE(image));
    other = malloc(PNG_IMAGE_SIZE(image));
    if (pixels == NULL || other == NULL) {
        result = fail(job, "there is no memory for the image", "");
    } else if (!png_image_finish_read(&image, NULL, pixels, 0, NULL)) {
        result = fail(job, "the image can't be read", image.message);
    } else {
        result = work(&image, pixels, other, (int)radius, (int)by, job);
    }
out:
    png_image_free(&image);
    fclose(in);
    free(pixels);
    free(other);
    return result;
}

export module_t config = {
    .name = "blur_job",
    .author = "cweb",
    .jobs = {{.name = "blur_image", .run = blur_image, .max_attempts = 2}},
    .job_size = 1,
};
