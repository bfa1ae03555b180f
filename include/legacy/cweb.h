/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file legacy/cweb.h
 * The interface of modules of the older dialects, whose functions take no context:
 *
 *     #include <cweb.h>
 *
 *     static int hello(struct http_request *req, struct http_response *res) {
 *         map_insert(res->headers, "Content-Type", "text/plain");
 *         snprintf(res->body, HTTP_RESPONSE_SIZE, "Hello!\n");
 *         return 0;
 *     }
 *
 *     export module_t config = {.name = "hello", .routes = {{"/hello", "GET", hello, NONE}}, .size = 1};
 *
 * The server compiles a source with these headers when no function of the source takes a context. The services are global
 * variables, set before `onload`; in the constructors of a module they are still NULL.
 */
#ifndef CWEB_H
#define CWEB_H

#include <regex.h>
#include <stddef.h>
#include <stdint.h>

#include "cweb_config.h"
#include "cweb_host.h"
#include "http.h"
#include "map.h"

#if !defined(CWEB_MODULE_API) || CWEB_MODULE_API != 2
#error "legacy/cweb.h is for -DCWEB_MODULE_API=2"
#endif

/** Marks the one symbol that the server looks up. */
#define CWEB_EXPORT __attribute__((visibility("default")))
#define export CWEB_EXPORT

/* ---- The module ---- */

typedef enum cweb_feature_flag {
    NONE = 0,
    FEATURE_FLAG_NONE = 0
} cweb_feature_flag_t;

/** A handler: fills in the response. Its return value is ignored. */
typedef int (*entry_t)(struct http_request *, struct http_response *);

/** A route. */
typedef struct route_info {
    const char *path;   /**< POSIX extended regular expression for the whole path */
    const char *method; /**< "GET", "POST", … */
    entry_t handler;
    int flags;
    int loaded; /**< Ignored */
} route_info_t;

/** A WebSocket path. Each function may be NULL. */
typedef struct ws_info {
    const char *path; /**< Literal */
    void (*on_open)(struct websocket *);
    void (*on_message)(struct websocket *, const char *message, size_t length);
    void (*on_close)(struct websocket *);
} websocket_info_t;

/** The declaration that a module exports as `config`. */
typedef struct module {
    char name[CWEB_NAME_SIZE];
    char author[CWEB_NAME_SIZE];
    route_info_t routes[MAX_ROUTES];
    int size; /**< Routes used */
    websocket_info_t websockets[MAX_WEBSOCKETS];
    int ws_size; /**< WebSocket paths used */
    void (*onload)(void);
    void (*unload)(void);
} module_t;

/* ---- The services, in a source that includes this header itself ---- */

#ifndef CWEB_WITHOUT_SERVICES

#include <jansson.h>

#include "container.h"
#include "db.h"
#include "defer.h"
#include "scheduler.h"

/** Functions and data of other modules. */
struct symbols {
    /** The address of an exported symbol of the module with this name; NULL if there is none. */
    void *(*resolv)(const char *module, const char *symbol);
};

typedef enum crypto_status {
    CRYPTO_FAILURE, /**< The server has no key: every operation returns -1. */
    CRYPTO_LOADED
} crypto_status_t;

struct crypto_ops {
    /** Signs the string token into out, as a string. @return its length, or -1 */
    int (*sign_token)(const char *token, char *out, unsigned int out_len);
    /** @return 0 if signed_token signs the token_len bytes at token, else -1 */
    int (*verify_token)(const char *signed_token, const char *token, size_t token_len);
};

struct crypto {
    void *ctx;               /**< NULL */
    const char *certificate; /**< No path; NULL without a key */
    const char *private_key; /**< Likewise */
    crypto_status_t status;
    struct crypto_ops *ops;
};

/* The server's services; see src/abi/native/legacy.c. */
struct cweb_legacy {
    struct container *cache;
    struct scheduler *scheduler;
    struct sqldb *database;
    struct crypto *crypto;
    struct symbols *symbols;
};

/* Names of the earlier server's variables, for sources that use them. */
#define crypto_module (*crypto)
#define exposed_container (*cache)
#define exposed_sqldb (*database)
#define exposed_scheduler (*scheduler)

extern struct container *cache;     /**< Named pointers, shared by all modules, that outlive hot swaps */
extern struct container *container; /**< The same */
extern struct scheduler *scheduler; /**< Work for later */
extern struct sqldb *database;      /**< The shared SQLite database */
extern struct crypto *crypto;       /**< Signatures with the server's key */
extern struct symbols *symbols;     /**< Functions of other modules */

__attribute__((weak, visibility("hidden"))) struct container *cache = NULL;
__attribute__((weak, visibility("hidden"))) struct container *container = NULL;
__attribute__((weak, visibility("hidden"))) struct scheduler *scheduler = NULL;
__attribute__((weak, visibility("hidden"))) struct sqldb *database = NULL;
__attribute__((weak, visibility("hidden"))) struct crypto *crypto = NULL;
__attribute__((weak, visibility("hidden"))) struct symbols *symbols = NULL;

/** The loader calls this once, before all other functions except constructors. */
void cweb_bind_legacy(const struct cweb_legacy *services);
__attribute__((weak, used, visibility("default"))) void cweb_bind_legacy(const struct cweb_legacy *services) {
    cache = container = services->cache;
    scheduler = services->scheduler;
    database = services->database;
    crypto = services->crypto;
    symbols = services->symbols;
}

#endif /* CWEB_WITHOUT_SERVICES */

#endif /* CWEB_H */
