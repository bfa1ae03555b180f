/* @NAME@: turns a PNG image into its negative. curl --data-binary @photo.png http://127.0.0.1:8080/@NAME@ -o negative.png */
#include <cweb.h>
#include <png.h>
#pragma cweb link("png")

enum { PIXELS_MAX = 64 * 1000 * 1000 };

static int negative(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    png_image image = {.version = PNG_IMAGE_VERSION};
    if (!png_image_begin_read_from_memory(&image, req->body, req->content_length)) {
        return cweb_respond(res, HTTP_400_BAD_REQUEST, NULL, "no PNG image: %s\n", image.message);
    }
    image.format = PNG_FORMAT_RGBA;
    size_t bytes = PNG_IMAGE_SIZE(image);
    int is_large = (size_t)image.width * image.height > PIXELS_MAX;
    unsigned char *pixels = is_large ? NULL : malloc(bytes);
    if (pixels == NULL || cweb_defer(req, free, pixels) != 0) { /* freed with the request */
        free(pixels);
        png_image_free(&image);
        return cweb_respond(res, 413, NULL, "the image is too large\n");
    }
    if (!png_image_finish_read(&image, NULL, pixels, 0, NULL)) {
        return cweb_respond(res, HTTP_400_BAD_REQUEST, NULL, "the image can't be read: %s\n", image.message);
    }
    for (size_t i = 0; i < bytes; i++) {
        if (i % 4 != 3) { /* the fourth is the opacity */
            pixels[i] = (unsigned char)(255 - pixels[i]);
        }
    }
    png_alloc_size_t size = 0;
    unsigned char *file = NULL;
    if (png_image_write_to_memory(&image, NULL, &size, 0, pixels, 0, NULL) && (file = malloc(size)) != NULL &&
        png_image_write_to_memory(&image, file, &size, 0, pixels, 0, NULL)) {
        cweb_header(res, "content-type", "image/png");
        res->status = HTTP_200_OK;
        res->body = (char *)file; /* the server frees it */
        res->content_length = size;
        return 0;
    }
    free(file);
    return cweb_respond(res, HTTP_500_INTERNAL_SERVER_ERROR, NULL, "the negative can't be written: %s\n", image.message);
}

export module_t config = {
    .name = "@NAME@",
    .author = "",
    .routes = {{"/@NAME@", "POST", negative, CWEB_BODY_MIB(32)}},
    .size = 1,
};
