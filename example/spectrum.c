/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The spectrum of sound over a WebSocket, with FFTW: each binary message has 32-bit floats (one channel, at most 16,384), and the
 * answer has the magnitude of each frequency up to half the sampling rate, as floats too. Open the page, which draws the spectrum of
 * a chord or of your microphone:
 *
 *     http://127.0.0.1:8080/spectrum
 *
 * or ask in a browser's console:
 *
 *     ws = new WebSocket("ws://127.0.0.1:8080/spectrum/ws"); ws.binaryType = "arraybuffer"
 *     ws.onmessage = e => console.log(new Float32Array(e.data))
 *     ws.send(Float32Array.from({length: 1024}, (_, i) => Math.sin(2 * Math.PI * 50 * i / 1024)))
 */
#include <cweb.h>
#include <cweb_websocket.h>
#include <fftw3.h>
#include <math.h>
#pragma cweb link("fftw3f")

enum { SAMPLES_MAX = 16384 };

/* FFTW's planner is not thread-safe; several threads may use one plan. */
static pthread_mutex_t planning = PTHREAD_MUTEX_INITIALIZER;

static const char page[] =
    "<!doctype html><meta charset=utf-8><title>Spectrum</title>\n"
    "<style>body{font:16px system-ui;margin:2em;background:#111;color:#ccc}"
    "canvas{width:100%;max-width:60em;box-sizing:border-box;border:1px solid #444}</style>\n"
    "<h1>Spectrum</h1>\n"
    "<canvas id=view width=960 height=320></canvas>\n"
    "<p><label>Tone <input id=tone type=range min=100 max=8000 value=880> <span id=hertz></span> Hz</label>\n"
    "<button id=microphone>Microphone</button> <span id=state>connecting</span></p>\n"
    "<script>\n"
    "const RATE = 32000, SAMPLES = 2048, canvas = view.getContext('2d');\n"
    "const ws = new WebSocket(location.origin.replace(/^http/, 'ws') + '/spectrum/ws');\n"
    "let clock = 0, rate = RATE, listen = null;\n"
    "// A tone and two above it, each quieter.\n"
    "const chord = () => Float32Array.from({length: SAMPLES}, () => {\n"
    "  const at = 2 * Math.PI * clock++ / RATE * tone.value;\n"
    "  return Math.sin(at) / 2 + Math.sin(at * 1.5) / 5 + Math.sin(at * 1.875) / 10;\n"
    "});\n"
    "function send() {\n"
    "  hertz.textContent = tone.value;\n"
    "  if (ws.readyState === 1) ws.send(listen ? listen() : chord());\n"
    "}\n"
    "ws.binaryType = 'arraybuffer';\n"
    "ws.onopen = send;\n"
    "ws.onclose = () => { state.textContent = 'disconnected'; };\n"
    "ws.onmessage = event => {\n"
    "  const bins = new Float32Array(event.data), width = view.width / bins.length;\n"
    "  canvas.fillStyle = '#111';\n"
    "  canvas.fillRect(0, 0, view.width, view.height);\n"
    "  let loudest = 0;\n"
    "  bins.forEach((magnitude, at) => {\n"
    "    if (magnitude > bins[loudest]) loudest = at;\n"
    "    const height = view.height * Math.min(1, Math.max(0, 1 + Math.log10(magnitude + 1e-6) / 4));\n"
    "    canvas.fillStyle = 'hsl(' + 240 * at / bins.length + ' 80% 60%)';\n"
    "    canvas.fillRect(at * width - 1, view.height - height, 3, height);\n"
    "  });\n"
    "  state.textContent = 'loudest: ' + Math.round(loudest * rate / 2 / (bins.length - 1)) + ' Hz';\n"
    "  setTimeout(send, 50);\n"
    "};\n"
    "microphone.onclick = async () => {\n"
    "  const audio = new AudioContext(), analyser = audio.createAnalyser(), samples = new Float32Array(SAMPLES);\n"
    "  audio.createMediaStreamSource(await navigator.mediaDevices.getUserMedia({audio: true})).connect(analyser);\n"
    "  analyser.fftSize = SAMPLES;\n"
    "  rate = audio.sampleRate;\n"
    "  listen = () => { analyser.getFloatTimeDomainData(samples); return samples; };\n"
    "};\n"
    "</script>\n";

static int home(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    return cweb_respond_data(res, HTTP_200_OK, "text/html; charset=utf-8", page, sizeof page - 1);
}

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
    .routes = {{"/spectrum", "GET", home, NONE}},
    .size = 1,
    .websockets = {{.path = "/spectrum/ws", .on_message = spectrum}},
    .ws_size = 1,
};
