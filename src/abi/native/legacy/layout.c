/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The offsets of every public field of the SDK's older dialect, for the tests of the Rust mirror. Compiled with the
 * headers of that dialect, so it must not include native.h.
 */
#include <stddef.h>

#include <cweb.h>

struct layout_entry {
    const char *name;
    size_t offset;
    size_t size;
};

#define TYPE(type) {#type, _Alignof(type), sizeof(type)}
#define FIELD(type, field) {#type "." #field, offsetof(type, field), sizeof(((type *)0)->field)}

extern const struct layout_entry cwebn_layout_legacy[];

const struct layout_entry cwebn_layout_legacy[] = {
    TYPE(http_kv_pair_t),
    FIELD(http_kv_pair_t, key),
    FIELD(http_kv_pair_t, value),
    TYPE(http_kv_store_t),
    FIELD(http_kv_store_t, entries),
    FIELD(http_kv_store_t, size),
    FIELD(http_kv_store_t, capacity),
    FIELD(http_kv_store_t, server),
    TYPE(http_request_t),
    FIELD(http_request_t, method),
    FIELD(http_request_t, version),
    FIELD(http_request_t, status),
    FIELD(http_request_t, path),
    FIELD(http_request_t, body),
    FIELD(http_request_t, content_length),
    FIELD(http_request_t, keep_alive),
    FIELD(http_request_t, close),
    FIELD(http_request_t, tid),
    FIELD(http_request_t, params),
    FIELD(http_request_t, headers),
    FIELD(http_request_t, data),
    FIELD(http_request_t, websocket),
    FIELD(http_request_t, transfer_encoding_chunked),
    FIELD(http_request_t, server),
    FIELD(http_request_t, reserved),
    TYPE(http_response_t),
    FIELD(http_response_t, status),
    FIELD(http_response_t, headers),
    FIELD(http_response_t, body),
    FIELD(http_response_t, content_length),
    FIELD(http_response_t, server),
    FIELD(http_response_t, reserved),
    TYPE(websocket_t),
    FIELD(websocket_t, session),
    FIELD(websocket_t, client_fd),
    FIELD(websocket_t, send),
    FIELD(websocket_t, close),
    FIELD(websocket_t, server),
    FIELD(websocket_t, server_id),
    FIELD(websocket_t, reserved),
    TYPE(route_info_t),
    FIELD(route_info_t, path),
    FIELD(route_info_t, method),
    FIELD(route_info_t, handler),
    FIELD(route_info_t, flags),
    FIELD(route_info_t, loaded),
    TYPE(websocket_info_t),
    FIELD(websocket_info_t, path),
    FIELD(websocket_info_t, on_open),
    FIELD(websocket_info_t, on_message),
    FIELD(websocket_info_t, on_close),
    TYPE(module_t),
    FIELD(module_t, name),
    FIELD(module_t, author),
    FIELD(module_t, routes),
    FIELD(module_t, size),
    FIELD(module_t, websockets),
    FIELD(module_t, ws_size),
    FIELD(module_t, onload),
    FIELD(module_t, unload),
    {NULL, 0, 0},
};
