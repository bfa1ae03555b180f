/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The spectrum of sound over a WebSocket, with FFTW: each binary message has 32-bit floats (one channel, at most 16,384), and the
 * answer has the magnitude of each frequency up to half the sampling rate, as floats too.
 *
 *     ws = new WebSocket("ws://127.0.0.1:8080/spectrum"); ws.binaryType = "arraybuffer"
 *     ws.onmessage = e => console.log(new Float32Array(e.data))
 *     ws.send(Float32Array.from({length: 1024}, (_, i) => Math.sin(2 * Math.PI * 50 * i / 1024)))
 */
#include <cweb.h>
#include <cweb_websocket.h>
#include <fftw3.h>
#include <math.h>
#pragma cweb link("fftw3f")

enum { SAMPLES_MAX = 16384 };

/* FFTW makes its plans one at a time; to use one, several threads may. */
static pthread_mutex_t planning = PTHREAD_MUTEX_INITIALIZER;

static void spectrum(struct cweb_context *ctx, websocket_t *ws, const char *message, size_t length) {
    (void)ctx;
    int count = (int)(length / sizeof(float));
    if (length == 0 || length % sizeof(float) != 0 || length > SAMPLES_MAX * sizeof(float)) {
        static const char what[] = "a message has 1 to 16384 floats of 4 bytes";
        cweb_ws_send_text(ws, what, sizeof what - 1);
        return;
    }
    int bins = count / 2 + 1;
    float *samples = fftwf_alloc_real((size_t)count), *magnitudes = fftwf_alloc_real((size_t)bins);
    fftwf_complex *frequencies = fftwf_alloc_complex((size_t)bins);
    if (samples != NULL && magnitudes != NULL && frequencies != NULL) {
        pthread_mutex_lock(&planning);
        fftwf_plan plan = fftwf_plan_dft_r2c_1d(count, samples, frequencies, FFTW_ESTIMATE);
        pthread_mutex_unlock(&planning);
        memcpy(samples, message, length);
        fftwf_execute(plan);
        for (int i = 0; i < bins; i++) {
            magnitudes[i] = hypotf(frequencies[i][0], frequencies[i][1]) / (float)count;
        }
        cweb_ws_send_binary(ws, magnitudes, (size_t)bins * sizeof(float));
        pthread_mutex_lock(&planning);
        fftwf_destroy_plan(plan);
        pthread_mutex_unlock(&planning);
    }
    fftwf_free(samples);
    fftwf_free(magnitudes);
    fftwf_free(frequencies);
}

export module_t config = {
    .name = "spectrum",
    .author = "cweb",
    .websockets = {{.path = "/spectrum", .on_message = spectrum}},
    .ws_size = 1,
};
