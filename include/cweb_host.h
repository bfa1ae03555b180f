/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file cweb_host.h
 * How a module reaches the server: one versioned table of function pointers, handed over when the module is loaded.
 *
 * Authors don't need this file; cweb.h wraps the table. The loader, after dlopen(3) and before it reads `config`:
 *
 *   1. looks up `cweb_module_abi` (const uint32_t) and refuses a module whose value is not CWEB_ABI_VERSION;
 *   2. looks up `cweb_module_api` (const uint32_t), which says which parameters the module's functions have;
 *   3. calls `cweb_bind_host(table, token)`; token is opaque and names the module in every call of the table.
 *
 * The table only grows at its end; `size` is the number of bytes that this server fills.
 */
#ifndef CWEB_HOST_H
#define CWEB_HOST_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "cweb_config.h"

#ifdef __cplusplus
extern "C" {
#endif

struct websocket;
struct cweb_stream_host;
struct http_response;
struct cweb_requests;
struct cweb_sockets;

/** A file to answer with, for cweb_host.send_file. Authors use cweb_file.h. */
struct cweb_file {
    uint32_t size; /**< sizeof(struct cweb_file) of the module */
    int flags;     /**< CWEB_FILE_… */
    const char *root; /**< The directory that path can't leave; NULL: path is used unchanged */
    const char *path;
    const char *content_type; /**< NULL: by the suffix of path */
    const char *etag;         /**< NULL: by the file's state */
};

/** Levels of cweb_log(). */
enum {
    CWEB_LOG_ERROR = 1,
    CWEB_LOG_WARN = 2,
    CWEB_LOG_INFO = 3,
    CWEB_LOG_DEBUG = 4
};

/** Types of WebSocket messages, for cweb_host.ws_send. */
enum {
    CWEB_WS_TEXT = 1,
    CWEB_WS_BINARY = 2
};

/** The server's services. Strings are NUL-terminated; every pointer is valid during the call only. */
struct cweb_host {
    uint32_t abi_version; /**< CWEB_ABI_VERSION */
    uint32_t size;        /**< sizeof(struct cweb_host) of the server */
    /** Queues a job of this module. Returns 0 and the job's UUID with NUL, or -1. */
    int (*jobs_create)(const void *module, const char *job, const char *payload_json, char uuid_out[37]);
    /** The module called `how` ("exit", "_exit", …) with this code. Does not return. */
    void (*module_exit)(const void *module, int code, const char *how);
    /** Signs with the server's key for tokens; see struct crypto_ops. Returns the length of the signed token, or -1. */
    int (*crypto_sign)(const char *token, char *out, size_t out_len);
    /** 0 when signed_token signs the token_len bytes at token, else -1. */
    int (*crypto_verify)(const char *signed_token, const char *token, size_t token_len);
    /** Sends one message to many sockets, encoded once. Returns how many sockets accepted it. */
    int (*ws_broadcast)(struct websocket *const *sockets, size_t count, const char *message, size_t length);
    /** Logs one line, without line break, in the server's log. */
    void (*log)(const void *module, int level, const char *message);
    /**
     * Whether the calling thread runs a function of a module for the server; false on a thread that a module
     * started.
     */
    int (*in_call)(void);
    /**
     * Sends one message of a type to many sockets, encoded once; type 0: the type that send() of each socket would
     * choose. Returns how many sockets accepted the message.
     */
    int (*ws_send)(struct websocket *const *sockets, size_t count, int type, const char *message, size_t length);
    /** See event_add() and event_del() in libevent.h: run(event) is to be called when fd is ready. 0, or -1 and errno. */
    int (*event_add)(const void *module, int fd, unsigned int events, void (*run)(void *event), void *event);
    int (*event_del)(const void *module, void *event);
    const struct cweb_requests *requests; /**< cweb_request.h */
    /** Answers with a file; see cweb_file.h. 0, or -1 and errno. */
    int (*send_file)(const void *module, struct http_response *response, const struct cweb_file *file);
    const struct cweb_stream_host *stream; /**< Bodies in pieces: cweb_stream.h */
    /** The value of a setting of this module; NULL if there is none. The text is valid while the module is loaded. */
    const char *(*setting)(const void *module, const char *key);
    const struct cweb_sockets *sockets; /**< cweb_websocket.h */
    /** See cweb_token.h. audience may be NULL, valid_s 0. Returns the length of the signed token, or -1. */
    int (*token_sign)(const char *token, const char *audience, unsigned int valid_s, char *out, size_t out_len);
    /** 0 when signed_token is valid now and signs the token_len bytes at token for audience, else -1. */
    int (*token_verify)(const char *signed_token, const char *token, size_t token_len, const char *audience);
    void *reserved[5]; /* NULL; becomes further functions */
};

/* The table and the token from the loader. Hidden: each module has its own. */
struct cweb_binding {
    const struct cweb_host *host;
    const void *module;
};

extern struct cweb_binding cweb_binding;
__attribute__((weak, visibility("hidden"))) struct cweb_binding cweb_binding = {NULL, NULL};

/** The interface version for which the module was compiled; the loader reads it. */
extern const uint32_t cweb_module_abi __attribute__((weak, visibility("default")));
const uint32_t cweb_module_abi = CWEB_ABI_VERSION;

/*
 * The parameters of the module's functions, for the loader: 3: the context comes first; 2: no context (legacy/cweb.h); 4: as
 * 3, in an app for WAFer. The server's compiler flags define the value, never the source.
 */
#ifndef CWEB_MODULE_API
#define CWEB_MODULE_API 3
#endif
extern const uint32_t cweb_module_api __attribute__((weak, visibility("default")));
const uint32_t cweb_module_api = CWEB_MODULE_API;

/** The loader calls this once, before all other functions except constructors. */
void cweb_bind_host(const struct cweb_host *host, const void *module);
__attribute__((weak, used, visibility("default"))) void cweb_bind_host(const struct cweb_host *host, const void *module) {
    cweb_binding.host = host;
    cweb_binding.module = module;
}

/*
 * ---- exit(3) and its relatives end the running handler, not the server: see the flags in cweb_config.h ----
 *
 * The replacements of err(3), error(3) and thrd_exit(3) are in err.h, error.h and threads.h of this directory. This
 * file is compiled with every module, and each function in it takes the compiler 2 ms.
 */

__attribute__((noreturn)) static inline void cweb_exit_handler(int code, const char *how) {
    if (cweb_binding.host != NULL) {
        cweb_binding.host->module_exit(cweb_binding.module, code, how);
    }
    /* A constructor called exit: the module is being examined in a process of its own, which this call ends. */
    fprintf(stderr, "%s(%d) called while the module was being loaded\n", how, code);
    abort();
}

void __wrap_exit(int code);
void __wrap__exit(int code);
void __wrap__Exit(int code);
void __wrap_quick_exit(int code);

__attribute__((weak, visibility("hidden"), noreturn)) void __wrap_exit(int code) {
    cweb_exit_handler(code, "exit");
}

__attribute__((weak, visibility("hidden"), noreturn)) void __wrap__exit(int code) {
    cweb_exit_handler(code, "_exit");
}

__attribute__((weak, visibility("hidden"), noreturn)) void __wrap__Exit(int code) {
    cweb_exit_handler(code, "_Exit");
}

__attribute__((weak, visibility("hidden"), noreturn)) void __wrap_quick_exit(int code) {
    cweb_exit_handler(code, "quick_exit");
}

/* ---- pthread_exit(3) ends a thread of the module's own; on a thread of the server it ends the running handler ---- */

/* The name that the linker's --wrap gives to libc's function; weak, because a program linked without --wrap has no
 * such name. */
__attribute__((weak, noreturn)) void __real_pthread_exit(void *value);
void __wrap_pthread_exit(void *value);

static inline int cweb_in_call(void) {
    return cweb_binding.host != NULL && cweb_binding.host->in_call != NULL && cweb_binding.host->in_call();
}

__attribute__((weak, visibility("hidden"), noreturn)) void __wrap_pthread_exit(void *value) {
    if (cweb_in_call()) {
        cweb_exit_handler(0, "pthread_exit");
    }
    __real_pthread_exit(value);
}

/* ---- stdout and stderr belong to the server, which logs the output of modules: modules can't close or redirect them ---- */

__attribute__((weak)) FILE *__real_freopen(const char *path, const char *mode, FILE *stream);
__attribute__((weak)) int __real_fclose(FILE *stream);
FILE *__wrap_freopen(const char *path, const char *mode, FILE *stream);
FILE *__wrap_freopen64(const char *path, const char *mode, FILE *stream);
int __wrap_fclose(FILE *stream);

/* Fails with EPERM for a descriptor of the server. */
__attribute__((weak, visibility("hidden"))) FILE *__wrap_freopen(const char *path, const char *mode, FILE *stream) {
    if (stream == stdout || stream == stderr) {
        errno = EPERM;
        return NULL;
    }
    return __real_freopen(path, mode, stream);
}

/* An alias, because the size of a file has 64 bits in both functions. */
__attribute__((weak, visibility("hidden"), alias("__wrap_freopen"))) FILE *__wrap_freopen64(const char *path,
                                                                                       const char *mode, FILE *stream);

__attribute__((weak, visibility("hidden"))) int __wrap_fclose(FILE *stream) {
    return stream == stdout || stream == stderr ? fflush(stream) : __real_fclose(stream);
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_HOST_H */
