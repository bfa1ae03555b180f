/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Blurs a PNG image with libpng: three passes of a box blur, close to a Gaussian one.
 *
 *     curl --data-binary @photo.png 'http://127.0.0.1:8080/blur?radius=8' -o blurred.png
 */
#include <cweb.h>
#include <png.h>
#pragma cweb link("png")
#pragma cweb cflags("-O3")

enum { RADIUS_MAX = 100, PIXELS_MAX = 64 * 1000 * 1000, CHANNELS = 4 };

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

static void blur_all(unsigned char *pixels, unsigned char *other, int width, int height, int radius) {
    size_t stride = (size_t)width * CHANNELS;
    for (int pass = 0; pass < 3; pass++) {
        for (int y = 0; y < height; y++) blur_line(pixels + (size_t)y * stride, other + (size_t)y * stride, width, CHANNELS, radius);
        for (int x = 0; x < width; x++) blur_line(other + x * CHANNELS, pixels + x * CHANNELS, height, stride, radius);
    }
}

static int blur(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    const char *wanted = http_kv_get(req->params, "radius");
    int radius = wanted == NULL ? 4 : atoi(wanted);
    if (radius < 0 || radius > RADIUS_MAX) {
        return cweb_respond(res, HTTP_400_BAD_REQUEST, NULL, "radius: 0 to %d pixels\n", RADIUS_MAX);
    }
    png_image image = {.version = PNG_IMAGE_VERSION};
    if (!png_image_begin_read_from_memory(&image, req->body, req->content_length)) {
        return cweb_respond(res, HTTP_400_BAD_REQUEST, NULL, "no PNG image: %s\n", image.message);
    }
    image.format = PNG_FORMAT_RGBA;
    if ((size_t)image.width * image.height > PIXELS_MAX) {
        png_image_free(&image);
        return cweb_respond(res, 413, NULL, "the image has more than %d pixels\n", PIXELS_MAX);
    }
    size_t bytes = PNG_IMAGE_SIZE(image);
    unsigned char *pixels = malloc(bytes), *other = malloc(bytes), *file = NULL;
    int result = -1;
    if (pixels == NULL || other == NULL || !png_image_finish_read(&image, NULL, pixels, 0, NULL)) {
        png_image_free(&image);
        result = cweb_respond(res, HTTP_400_BAD_REQUEST, NULL, "the image can't be read: %s\n", image.message);
        goto out;
    }
    if (radius > 0) blur_all(pixels, other, (int)image.width, (int)image.height, radius);
    png_alloc_size_t size = 0;
    if (png_image_write_to_memory(&image, NULL, &size, 0, pixels, 0, NULL) && (file = malloc(size)) != NULL &&
        png_image_write_to_memory(&image, file, &size, 0, pixels, 0, NULL)) {
        cweb_header(res, "content-type", "image/png");
        res->status = HTTP_200_OK;
        res->body = (char *)file; /* the server frees it */
        res->content_length = size;
        file = NULL;
        result = 0;
    }
out:
    free(pixels);
    free(other);
    free(file);
    return result;
}

export module_t config = {
    .name = "blur",
    .author = "cweb",
    .routes = {{"/blur", "POST", blur, CWEB_BODY_MIB(32) | CWEB_TIMEOUT_S(60)}},
    .size = 1,
};
