/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file cweb_config.h
 * Limits of the module interface, and how a module is compiled.
 *
 * A module of one file is compiled with, in this order (several files, C++, libraries and flags: docs/projects.md):
 *
 *     cc -std=gnu11 -O2 -g -fPIC -Wall -fstack-clash-protection -fstack-protector-strong \
 *        -fno-omit-frame-pointer -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 -Wno-unused-result -Werror=implicit-function-declaration \
 *        -Werror=implicit-int -Werror=incompatible-pointer-types -I<sdk> -shared module.c -o module.so \
 *        -Wl,-Bsymbolic -Wl,-z,defs -Wl,--wrap=exit -Wl,--wrap=_exit -Wl,--wrap=_Exit -Wl,--wrap=quick_exit \
 *        -Wl,--wrap=err -Wl,--wrap=errx -Wl,--wrap=verr -Wl,--wrap=verrx -Wl,--wrap=error \
 *        -Wl,--wrap=error_at_line -Wl,--wrap=pthread_exit -Wl,--wrap=thrd_exit \
 *        -Wl,--wrap=freopen -Wl,--wrap=freopen64 -Wl,--wrap=fclose \
 *        -Wl,--as-needed -ljansson -lsqlite3 -lssl -lcrypto -lm -lpthread
 *
 * `--wrap` redirects the module's calls of exit(3) and its relatives to cweb.h, which ends the running handler and not
 * the server. `--wrap` also keeps stdout and stderr open. With `-Bsymbolic`, a function that the module defines
 * takes precedence over libc's function of that name. `-fstack-clash-protection` lets a stack overflow end the handler
 * however large its locals are. `--as-needed` precedes the libraries because it applies to the libraries after it: a
 * module maps only the libraries that it uses. `-z defs` turns a function that is declared and defined nowhere into an
 * error of the linker. A source of an older dialect, whose functions take no context, is compiled with
 * -DCWEB_MODULE_API=2 -I<sdk>/legacy before -I<sdk>.
 */
#ifndef CWEB_CONFIG_H
#define CWEB_CONFIG_H

/** Limits on the routes, WebSocket paths and jobs of one module. */
#define MAX_ROUTES 64
#define MAX_WEBSOCKETS 64
#define MAX_JOBS 64
#define MAX_MOUNTS 16

/** Size of module_t.name and module_t.author, with the terminating NUL. */
#define CWEB_NAME_SIZE 128

/**
 * Version of all data that crosses between server and module: the layout of the structures in this SDK and of struct
 * cweb_host. The loader refuses a module compiled for another version.
 */
#define CWEB_ABI_VERSION 2u

/** Default limit, in bytes, on a request body. */
#define DEFAULT_MAX_BODY_BYTES (1024 * 1024)

/*
 * Sizes that older modules use for their own tables and buffers. They limit nothing here: the server has its own
 * limits, which `cweb serve --help` lists.
 */
#define ROUTER_MAX_MODULES 100
#define SO_PATH_MAX_LEN 256
#define REQUEST_BUFFER_SIZE (DEFAULT_MAX_BODY_BYTES + 16 * 1024)
#define DEFAULT_DEV_THREAD_POOL_SIZE 4
#define DEFAULT_PROD_THREAD_POOL_MULTIPLIER 2

/** Default port of the server. */
#define DEFAULT_PORT 8080

/* Functions whose result gcc must not infer in the module's own code: if they were inlined, gcc would warn of
 * impossible cases. */
#define CWEB_OUT_OF_LINE static __attribute__((noinline, unused))

#endif /* CWEB_CONFIG_H */
