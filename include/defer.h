/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file defer.h
 * `defer { … }` runs a block when the enclosing scope is left by return, break, goto or its end. Several blocks run in
 * reverse order. Needs gcc, because it uses nested functions. `cweb_defer(function)` on a variable works everywhere: it
 * calls function(&variable) at the same moments.
 *
 *     FILE *file = fopen(path, "r");
 *     defer { if (file) fclose(file); }
 *
 * Neither a fault nor exit(3) runs the blocks and functions.
 */
#ifndef CWEB_DEFER_H
#define CWEB_DEFER_H

#include <stdlib.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Calls function(&variable) when variable's scope is left. Write it as part of the declaration of the variable. With
 * three arguments, cweb_defer() is the function of cweb_request.h for the end of the request: cweb_defer(req, function, argument).
 */
#define cweb_defer(...) CWEB_DEFER_CHOSEN(__VA_ARGS__, CWEB_DEFER_CALL, , CWEB_DEFER_SCOPE, )(__VA_ARGS__)
#define CWEB_DEFER_CHOSEN(a, b, c, chosen, ...) chosen
#define CWEB_DEFER_SCOPE(function) __attribute__((cleanup(function)))
#define CWEB_DEFER_CALL(req, function, argument) (cweb_defer)(req, function, argument)

/** Frees a malloc'd pointer at the end of its scope: `char *text cweb_defer(cweb_free_pointer) = strdup(s);` */
static inline void cweb_free_pointer(void *pointer_address) {
    free(*(void **)pointer_address);
}

#define CWEB_DEFER_JOIN_(a, b) a##b
#define CWEB_DEFER_JOIN(a, b) CWEB_DEFER_JOIN_(a, b)

#if defined(__GNUC__) && !defined(__clang__) && !defined(__cplusplus)
/*
 * A mark on the stack whose clean-up is the block, written as the body of a nested function. No code takes that
 * function's address, so it needs no trampoline and no executable stack.
 */
#define CWEB_DEFER_AT(mark, block)                          \
    auto void block(const char *);                          \
    const char mark __attribute__((cleanup(block))) = 0;    \
    void block(const char *at __attribute__((unused)))
#define defer CWEB_DEFER_NUMBERED(__COUNTER__)
#define CWEB_DEFER_NUMBERED(n) CWEB_DEFER_AT(CWEB_DEFER_JOIN(cweb_defer_mark_, n), CWEB_DEFER_JOIN(cweb_defer_block_, n))
#endif

#ifdef __cplusplus
}
#endif

#endif /* CWEB_DEFER_H */
