/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Compresses a stream while it arrives, with zlib and zstd, in constant memory.
 *
 *     curl -T access.log http://127.0.0.1:8080/gzip -o access.log.gz
 *     curl -T access.log http://127.0.0.1:8080/zstd -o access.log.zst
 *     curl -T access.log.zst http://127.0.0.1:8080/unzstd
 */
#include <cweb.h>
#include <cweb_stream.h>
#include <zlib.h>
#include <zstd.h>
#pragma cweb link("z", "zstd")

enum { PIECE_BYTES = 128 * 1024 };

static void end_gzip(void *stream) { deflateEnd(stream); }
static void free_compressor(void *stream) { ZSTD_freeCCtx(stream); }
static void free_decompressor(void *stream) { ZSTD_freeDCtx(stream); }

static int gzip(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    z_stream *stream = cweb_alloc(req, sizeof *stream);
    unsigned char *in = cweb_alloc(req, PIECE_BYTES), *out = cweb_alloc(req, PIECE_BYTES);
    if (stream == NULL || in == NULL || out == NULL) return -1;
    if (deflateInit2(stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK) return -1;
    (cweb_defer)(req, end_gzip, stream);
    cweb_header(res, "content-type", "application/gzip");
    cweb_begin(res, HTTP_200_OK);
    ssize_t n;
    do {
        n = cweb_read(req, in, PIECE_BYTES);
        if (n < 0) return -1;
        stream->next_in = in;
        stream->avail_in = (uInt)n;
        do {
            stream->next_out = out;
            stream->avail_out = PIECE_BYTES;
            deflate(stream, n == 0 ? Z_FINISH : Z_NO_FLUSH);
            if (cweb_write(res, out, PIECE_BYTES - stream->avail_out) != 0) return -1; /* the client left */
        } while (stream->avail_out == 0);
    } while (n > 0);
    return 0;
}

static int zstd(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    ZSTD_CCtx *stream = ZSTD_createCCtx();
    char *in = cweb_alloc(req, PIECE_BYTES), *out = cweb_alloc(req, PIECE_BYTES);
    if (stream == NULL) return -1;
    (cweb_defer)(req, free_compressor, stream);
    if (in == NULL || out == NULL) return -1;
    cweb_header(res, "content-type", "application/zstd");
    cweb_begin(res, HTTP_200_OK);
    ssize_t n;
    do {
        n = cweb_read(req, in, PIECE_BYTES);
        if (n < 0) return -1;
        ZSTD_inBuffer input = {in, (size_t)n, 0};
        size_t left;
        do {
            ZSTD_outBuffer output = {out, PIECE_BYTES, 0};
            left = ZSTD_compressStream2(stream, &output, &input, n == 0 ? ZSTD_e_end : ZSTD_e_continue);
            if (ZSTD_isError(left) || cweb_write(res, out, output.pos) != 0) return -1;
        } while (n == 0 ? left > 0 : input.pos < input.size);
    } while (n > 0);
    return 0;
}

static int unzstd(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    ZSTD_DCtx *stream = ZSTD_createDCtx();
    char *in = cweb_alloc(req, PIECE_BYTES), *out = cweb_alloc(req, PIECE_BYTES);
    if (stream == NULL) return -1;
    (cweb_defer)(req, free_decompressor, stream);
    if (in == NULL || out == NULL) return -1;
    size_t left = 1;
    int has_begun = 0;
    ssize_t n;
    while ((n = cweb_read(req, in, PIECE_BYTES)) > 0) {
        ZSTD_inBuffer input = {in, (size_t)n, 0};
        ZSTD_outBuffer output;
        do {
            output = (ZSTD_outBuffer){out, PIECE_BYTES, 0};
            left = ZSTD_decompressStream(stream, &output, &input);
            if (ZSTD_isError(left)) {
                /* After the first byte of the answer, only an end without a last chunk can report the error. */
                return has_begun ? -1 : cweb_respond(res, HTTP_400_BAD_REQUEST, NULL, "%s\n", ZSTD_getErrorName(left));
            }
            if (!has_begun) {
                cweb_header(res, "content-type", "application/octet-stream");
                cweb_begin(res, HTTP_200_OK);
                has_begun = 1;
            }
            if (cweb_write(res, out, output.pos) != 0) return -1;
        } while (input.pos < input.size || output.pos == output.size);
    }
    if (n == 0 && !has_begun) return cweb_respond(res, HTTP_400_BAD_REQUEST, NULL, "no frame of zstd\n");
    return n < 0 || left != 0 ? -1 : 0; /* the frame is truncated */
}

export module_t config = {
    .name = "compress",
    .author = "cweb",
    .routes = {{"/gzip", "PUT", gzip, CWEB_STREAM | CWEB_NO_COMPRESS},
               {"/zstd", "PUT", zstd, CWEB_STREAM | CWEB_NO_COMPRESS},
               {"/unzstd", "PUT", unzstd, CWEB_STREAM}},
    .size = 3,
};
