/* Tests of @NAME@: cweb test @NAME@ */
#include <cweb_test.h>
#include <png.h>

/* A PNG image of one pixel. Its size is written to `size`. */
static unsigned char *pixel(const unsigned char rgba[4], size_t *size) {
    png_image image = {.version = PNG_IMAGE_VERSION, .width = 1, .height = 1, .format = PNG_FORMAT_RGBA};
    png_alloc_size_t bytes = 0;
    png_image_write_to_memory(&image, NULL, &bytes, 0, rgba, 0, NULL);
    unsigned char *file = malloc(bytes);
    CWEB_ASSERT(file != NULL && png_image_write_to_memory(&image, file, &bytes, 0, rgba, 0, NULL));
    *size = bytes;
    return file;
}

CWEB_TEST(a_pixel_becomes_its_negative) {
    size_t size;
    unsigned char *file = pixel((const unsigned char[]){10, 200, 0, 255}, &size);
    const cweb_test_response_t *res = cweb_test_request_data("POST", "/@NAME@", NULL, file, size);
    free(file);
    CWEB_ASSERT_EQ(res->status, 200);
    CWEB_ASSERT_STR(cweb_test_header(res, "content-type"), "image/png");
    png_image image = {.version = PNG_IMAGE_VERSION};
    unsigned char found[4] = {0};
    CWEB_ASSERT(png_image_begin_read_from_memory(&image, res->body, res->length));
    image.format = PNG_FORMAT_RGBA;
    CWEB_ASSERT(png_image_finish_read(&image, NULL, found, 0, NULL));
    CWEB_ASSERT_MEM(found, 4, ((const unsigned char[]){245, 55, 255, 255}), 4);
}

CWEB_TEST(what_is_no_image_is_refused) {
    CWEB_ASSERT_EQ(cweb_test_request("POST", "/@NAME@", NULL, "not an image")->status, 400);
}
