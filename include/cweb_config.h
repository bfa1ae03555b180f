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
 * `--wrap` sends the module's calls of exit(3) and its relatives to cweb.h, which ends the running handler and
 * not the server; it also keeps stdout and stderr from being closed. `-Bsymbolic` has a function that the module defines be the module's own where libc has one of that
 * name. `-fstack-clash-protection` lets a stack overflow end the handler however large its locals are. `--as-needed` stands before the libraries because it applies to what follows it: a module
 * maps only the libraries it uses. `-z defs` has a function that is declared
 * and defined nowhere be an error of the linker. A source of an older generation, whose functions take no context, is
 * compiled with -DCWEB_MODULE_API=2 -I<sdk>/legacy before -I<sdk>.
 */
#ifndef CWEB_CONFIG_H
#define CWEB_CONFIG_H

/** Most routes, WebSocket paths and jobs that one module declares. */
#define MAX_ROUTES 64
#define MAX_WEBSOCKETS 64
#define MAX_JOBS 64
#define MAX_MOUNTS 16

/** Size of module_t.name and module_t.author, the terminating NUL included. */
#define CWEB_NAME_SIZE 128

/**
 * Version of everything that crosses between server and module: the layout of the structures in this SDK and of
 * struct cweb_host. The loader refuses a module compiled for another one.
 */
#define CWEB_ABI_VERSION 2u

/** Largest request body accepted unless the server is told otherwise. */
#define DEFAULT_MAX_BODY_BYTES (1024 * 1024)

/*
 * Names that older modules size their own tables and buffers with. They bound nothing here: the server has its own
 * limits, which `cweb serve --help` lists.
 */
#define ROUTER_MAX_MODULES 100
#define SO_PATH_MAX_LEN 256
#define REQUEST_BUFFER_SIZE (DEFAULT_MAX_BODY_BYTES + 16 * 1024)
#define DEFAULT_DEV_THREAD_POOL_SIZE 4
#define DEFAULT_PROD_THREAD_POOL_MULTIPLIER 2

/** Port the server listens on unless told otherwise. */
#define DEFAULT_PORT 8080

/* Functions whose result gcc must not guess at in the module's own code: inlined, they make it warn of what can't happen. */
#define CWEB_OUT_OF_LINE static __attribute__((noinline, unused))

#endif /* CWEB_CONFIG_H */
