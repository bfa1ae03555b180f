/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file cweb_websocket.h
 * Functions for a WebSocket beyond websocket_t: read its handshake, accept or refuse it, store a pointer with the
 * socket, and send to rooms. cweb.h includes this file. Sending as text or binary is in cweb_helpers.h.
 */
#ifndef CWEB_WEBSOCKET_H
#define CWEB_WEBSOCKET_H

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "cweb_host.h"
#include "cweb_request.h"
#ifndef CWEB_HTTP_H /* Of either generation. */
#include <http.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

/** Limit, in bytes, on the name of a room. */
#define CWEB_ROOM_BYTES_MAX 255

/* Services behind the functions below; cweb_host.sockets. The table only grows at its end. */
struct cweb_sockets {
    int (*message_type)(struct websocket *ws);
    int (*join)(struct websocket *ws, const char *room);
    int (*leave)(struct websocket *ws, const char *room);
    int (*publish)(const char *room, const void *bytes, size_t length, int type);
    int (*canceled)(struct websocket *ws);
    size_t (*buffered)(struct websocket *ws);
    void *reserved[6]; /* NULL; becomes further functions */
};

static inline const struct cweb_sockets *cweb_sockets(void) {
    const struct cweb_sockets *table = cweb_binding.host == NULL ? NULL : cweb_binding.host->sockets;
    if (table == NULL) {
        errno = EINVAL;
    }
    return table;
}

/**
 * The type of the message that on_message is handling: CWEB_WS_TEXT or CWEB_WS_BINARY. In any other place the type of
 * the socket's last message, and CWEB_WS_TEXT before the first message; 0 for NULL.
 */
static inline int cweb_ws_message_type(websocket_t *ws) {
    const struct cweb_sockets *table = cweb_sockets();
    return table == NULL || ws == NULL ? 0 : table->message_type(ws);
}

/**
 * The request that opened the socket: its query (`params`), `headers`, captures of the path (cweb_param()), cookies,
 * and the client's address. The request is available in on_open, until on_open returns; its memory is that of
 * cweb_alloc().
 * @return NULL in any other place, with errno EINVAL
 */
static inline http_request_t *cweb_ws_request(websocket_t *ws) {
    const struct cweb_requests *table = cweb_requests();
    return table == NULL || ws == NULL ? NULL : table->of_socket(ws);
}

/**
 * Stores a pointer with the socket, until on_close has returned; the server neither follows nor frees it. The pointer
 * survives hot swaps; in a new process of the domain it is NULL.
 */
static inline void cweb_ws_set_data(websocket_t *ws, void *data) {
    if (ws != NULL) {
        ws->reserved[0] = data;
    }
}

/** The pointer of cweb_ws_set_data(); NULL if none was set. */
static inline void *cweb_ws_data(websocket_t *ws) {
    return ws == NULL ? NULL : ws->reserved[0];
}

/**
 * Returns the bytes that the module has sent to the socket or to its rooms, and that the client's connection has not taken. Frames
 * count with their size on the wire, after compression. May be called from any thread, until on_close has returned.
 *
 * Bytes in the kernel's buffer do not count, nor do the last 16 KiB at the connection. In the server's own process (--isolation
 * none) the number is current. In a domain's process the number follows within about a millisecond while there is a backlog;
 * without one it may be up to 64 KiB too high for up to a second. Messages to rooms count when the server has them, from 16 KiB on.
 *
 * A producer that skips or merges messages while the number is above a few hundred KiB is never closed as too slow
 * (--ws-queue-bytes-max).
 * @return 0 for NULL, once the socket is closed, and on a server before this function
 */
static inline size_t cweb_ws_buffered(websocket_t *ws) {
    const struct cweb_sockets *table = cweb_sockets();
    return table == NULL || table->buffered == NULL || ws == NULL ? 0 : table->buffered(ws);
}

/* ---- The handshake: a route {"/chat", "GET", admit, CWEB_HANDSHAKE} is asked before a socket is opened on "/chat" ---- */

/** 1 if the client offers this subprotocol (case counts), else 0. */
CWEB_OUT_OF_LINE int cweb_ws_offers(http_request_t *req, const char *protocol) {
    size_t at = 0;
    size_t wanted = protocol == NULL ? 0 : strlen(protocol);
    const char *list = NULL;
    while (req != NULL && wanted > 0 && (list = cweb_kv_next(req->headers, "sec-websocket-protocol", &at)) != NULL) {
        while (*list != '\0') {
            list += strspn(list, ", \t");
            size_t size = strcspn(list, ", \t");
            if (size == wanted && memcmp(list, protocol, size) == 0) {
                return 1;
            }
            list += size;
        }
    }
    return 0;
}

/**
 * Chooses a subprotocol, in the handler of a route with CWEB_HANDSHAKE. The last choice counts.
 * @return 0; -1 with errno EINVAL when the client does not offer it, or ENOMEM: nothing is chosen then
 */
static inline int cweb_ws_choose(http_request_t *req, http_response_t *res, const char *protocol) {
    if (res == NULL || !cweb_ws_offers(req, protocol)) {
        errno = EINVAL;
        return -1;
    }
    char *copy = cweb_strdup(req, protocol);
    http_kv_pair_t *pair = cweb_kv_find(res->headers, "sec-websocket-protocol");
    if (copy != NULL && pair != NULL) {
        cweb_give_back(pair->value);
        pair->value = copy;
        return 0;
    }
    if (copy == NULL || http_kv_insert(res->headers, "sec-websocket-protocol", copy) != 0) {
        errno = ENOMEM;
        return -1;
    }
    return 0;
}

/* ---- Rooms ---- */

/**
 * Adds the socket to a room: the socket receives the messages published there, until it leaves or is closed. Rooms
 * belong to the domain of the socket's module; they need not be created or removed.
 * @param room  1 to CWEB_ROOM_BYTES_MAX bytes
 * @return 0, also if the socket is already there; -1 with errno EINVAL (another length, NULL), EPIPE (the socket is
 * closed) or ENOSPC (the socket is in --ws-rooms-max rooms)
 */
static inline int cweb_ws_join(websocket_t *ws, const char *room) {
    const struct cweb_sockets *table = cweb_sockets();
    return table == NULL ? -1 : table->join(ws, room);
}

/**
 * Removes the socket from a room. @return 0, also if the socket was not there; -1 with errno EINVAL or EPIPE as
 * cweb_ws_join()
 */
static inline int cweb_ws_leave(websocket_t *ws, const char *room) {
    const struct cweb_sockets *table = cweb_sockets();
    return table == NULL ? -1 : table->leave(ws, room);
}

/**
 * Sends one message to all sockets of a room, on all shards; the message is encoded once. May be called from any thread
 * and any handler of the domain. A socket whose reader is too slow is closed as with send().
 * @param type  CWEB_WS_TEXT or CWEB_WS_BINARY; bytes that are not UTF-8 are always sent as binary
 * @return 0, also if the room is empty; -1 with errno EINVAL: a wrong type or room, or bytes is NULL with a length
 */
static inline int cweb_ws_publish(const char *room, const void *bytes, size_t length, int type) {
    const struct cweb_sockets *table = cweb_sockets();
    return table == NULL ? -1 : table->publish(room, bytes, length, type);
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_WEBSOCKET_H */
