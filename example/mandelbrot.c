/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The Mandelbrot set, computed in tiles that arrive at a page while others are still computed: each answer in a WebSocket is one
 * tile, as a binary message. Open it, click to zoom in, and zoom out with a right click:
 *
 *     http://127.0.0.1:8080/mandelbrot
 *
 * The page asks for a view with "NUMBER LEFT TOP WIDTH SIZE" as text: a corner and a width in the complex plane, and the
 * side of the picture in pixels, a multiple of 64. A tile is four 32-bit numbers (the view's number, x, y, side) and a byte
 * for each pixel: 0 inside, else how fast it escapes. The views of one socket are drawn one after the other; the page leaves
 * out tiles of a view that it has left.
 */
#include <cweb.h>
#include <stdint.h>
#pragma cweb cflags("-O3")

enum { TILE = 64, SIZE_MAX_PIXELS = 1024, STEPS = 400 };

static const char page[] =
    "<!doctype html><meta charset=utf-8><title>Mandelbrot</title>\n"
    "<style>body{font:16px system-ui;margin:1em;background:#111;color:#ccc}canvas{width:min(92vh,96vw);cursor:zoom-in}</style>\n"
    "<div id=state>connecting</div>\n"
    "<canvas id=view width=640 height=640></canvas>\n"
    "<script>\n"
    "const size = view.width, canvas = view.getContext('2d');\n"
    "const ws = new WebSocket(location.origin.replace(/^http/, 'ws') + '/mandelbrot/ws');\n"
    "let area = {left: -2.25, top: -1.5, width: 3}, number = 0, left = 0;\n"
    "const colours = Array.from({length: 256}, (_, n) => {\n"
    "  const t = Math.min(1, n / 60), u = 1 - t;\n"
    "  return n === 0 ? [0, 0, 0] : [9 * u * t ** 3, 15 * u * u * t * t, 8.5 * u ** 3 * t].map(part => 255 * part);\n"
    "});\n"
    "function ask() {\n"
    "  number++;\n"
    "  left = Math.ceil(size / 64) ** 2;\n"
    "  ws.send([number, area.left, area.top, area.width, size].join(' '));\n"
    "}\n"
    "ws.binaryType = 'arraybuffer';\n"
    "ws.onopen = ask;\n"
    "ws.onclose = () => { state.textContent = 'disconnected'; };\n"
    "ws.onmessage = event => {\n"
    "  const [of, x, y, side] = new Uint32Array(event.data, 0, 4);\n"
    "  if (of !== number) return; // of a view before this one\n"
    "  const image = canvas.createImageData(side, side);\n"
    "  new Uint8Array(event.data, 16).forEach((step, at) => image.data.set([...colours[step], 255], at * 4));\n"
    "  canvas.putImageData(image, x, y);\n"
    "  state.textContent = 'view ' + number + ': ' + (--left ? left + ' tiles to come' : 'complete');\n"
    "};\n"
    "function zoom(event, factor) {\n"
    "  event.preventDefault();\n"
    "  const box = view.getBoundingClientRect(), width = area.width * factor;\n"
    "  area = {width, left: area.left + area.width * (event.clientX - box.left) / box.width - width / 2,\n"
    "          top: area.top + area.width * (event.clientY - box.top) / box.height - width / 2};\n"
    "  ask();\n"
    "}\n"
    "view.onclick = event => zoom(event, 1 / 3);\n"
    "view.oncontextmenu = event => zoom(event, 3);\n"
    "</script>\n";

typedef struct {
    uint32_t number, x, y, side;
    uint8_t steps[TILE * TILE];
} tile_t;

typedef struct {
    unsigned number;
    double left, top, width;
    unsigned size;
} view_t;

static int home(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    return cweb_respond_data(res, HTTP_200_OK, "text/html; charset=utf-8", page, sizeof page - 1);
}

/* The number of steps for which z -> z*z + c stays small; 0: for all computed steps. */
static uint8_t escape(double re, double im) {
    double x = 0, y = 0;
    for (int step = 0; step < STEPS; step++) {
        double xx = x * x, yy = y * y;
        if (xx + yy > 4) {
            return (uint8_t)(1 + step % 255);
        }
        y = 2 * x * y + im;
        x = xx - yy + re;
    }
    return 0;
}

static int send_tile(websocket_t *ws, const view_t *view, unsigned x, unsigned y) {
    tile_t tile = {.number = view->number, .x = x, .y = y, .side = TILE};
    double pixel = view->width / view->size;
    for (unsigned row = 0; row < TILE; row++) {
        for (unsigned column = 0; column < TILE; column++) {
            tile.steps[row * TILE + column] = escape(view->left + (x + column) * pixel, view->top + (y + row) * pixel);
        }
    }
    return cweb_ws_send_binary(ws, &tile, sizeof tile);
}

static void draw(struct cweb_context *ctx, websocket_t *ws, const char *message, size_t length) {
    (void)ctx, (void)length;
    static const char what[] = "a view is NUMBER LEFT TOP WIDTH SIZE, with a SIZE of 64, 128 … 1024 pixels";
    view_t view;
    if (sscanf(message, "%u %lf %lf %lf %u", &view.number, &view.left, &view.top, &view.width, &view.size) != 5 ||
        view.size < TILE || view.size > SIZE_MAX_PIXELS || view.size % TILE != 0) {
        cweb_ws_send_text(ws, what, sizeof what - 1);
        return;
    }
    for (unsigned y = 0; y < view.size; y += TILE) {
        for (unsigned x = 0; x < view.size; x += TILE) {
            if (send_tile(ws, &view, x, y) != 0) {
                return; /* the page is gone */
            }
        }
    }
}

export module_t config = {
    .name = "mandelbrot",
    .author = "cweb",
    .routes = {{"/mandelbrot", "GET", home, NONE}},
    .size = 1,
    .websockets = {{.path = "/mandelbrot/ws", .on_message = draw}},
    .ws_size = 1,
};
