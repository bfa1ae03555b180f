/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file cweb_token.h
 * Signed tokens with an audience and an expiry.
 *
 * The server signs with a key that is for tokens only (--token-key; token.key in the data directory when HTTPS is
 * configured). A signed token is valid in the domain of the module that requested it, for the named audience, until it
 * expires. The token itself is not part of the signed token: keep both.
 */
#ifndef CWEB_TOKEN_H
#define CWEB_TOKEN_H

#include <stddef.h>

#include "cweb_host.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Bytes that suffice for a signed token with its NUL, for any key (RSA up to 8192 bits). */
#define CWEB_SIGNED_TOKEN_SIZE 1536

/**
 * Signs the string token into out, as a string.
 * @param audience  the intended recipient, such as the name of the verifying module; NULL or "" for any
 * @param valid_s   how many seconds the signed token is valid; 0 for ever
 * @param out_len   size of out; CWEB_SIGNED_TOKEN_SIZE suffices
 * @return length of the signed token, or -1 (no key, NULL, or out too small)
 */
static inline int cweb_token_sign(const char *token, const char *audience, unsigned int valid_s, char *out,
                                  size_t out_len) {
    const struct cweb_host *host = cweb_binding.host;
    return host == NULL || host->token_sign == NULL ? -1 : host->token_sign(token, audience, valid_s, out, out_len);
}

/**
 * Checks that signed_token signs the token_len bytes at token for audience, and has not expired.
 * @param audience  the same as for cweb_token_sign()
 * @return 0 if the signed token is valid, else -1
 */
static inline int cweb_token_verify(const char *signed_token, const char *token, size_t token_len, const char *audience) {
    const struct cweb_host *host = cweb_binding.host;
    return host == NULL || host->token_verify == NULL ? -1
                                                      : host->token_verify(signed_token, token, token_len, audience);
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_TOKEN_H */
