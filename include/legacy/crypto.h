/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file legacy/crypto.h
 * Signatures with the server's key, in modules whose functions take no context: `crypto`, or `crypto_module`.
 */
#ifndef CWEB_CRYPTO_H
#define CWEB_CRYPTO_H

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include "cweb.h"

#endif /* CWEB_CRYPTO_H */
