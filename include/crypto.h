/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file crypto.h
 * Signatures of tokens.
 *
 * `ctx->crypto` belongs to the server: it signs when HTTPS or --token-key is configured and fails cleanly otherwise.
 * Its key is for tokens only, differs from that of the certificate, and is never accessible to the module. A token
 * signed for a module of one domain is valid in that domain only; cweb_token.h gives tokens an audience and an expiry.
 * crypto_init() creates a signer of the module's own, from PEM files.
 *
 * A signed token is the base64 of a detached signature, so keep the token beside it. The server signs more bytes than
 * the token (among them its domain), so only the server can verify the signature.
 */
#ifndef CWEB_CRYPTO_H
#define CWEB_CRYPTO_H

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef CWEB_WITHOUT_OPENSSL /* the server itself includes this header without OpenSSL */
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#else
typedef struct ssl_ctx_st SSL_CTX;
#endif

#ifdef __cplusplus
extern "C" {
#endif

struct crypto;

/** Whether a key is loaded. */
typedef enum crypto_status {
    CRYPTO_FAILURE, /**< No key is loaded: every operation returns -1. */
    CRYPTO_LOADED
} crypto_status_t;

struct crypto_ops {
    /**
     * Signs the string token into out, as a string.
     * @param out_len  size of out; 1024 suffices for RSA keys up to 4096 bits
     * @return length of the signed token, or -1 (no key, or out too small)
     */
    int (*sign_token)(struct crypto *crypto, const char *token, char *out, unsigned int out_len);
    /**
     * Checks that signed_token signs the token_len bytes at token.
     * @return 0 if the signature is valid, else -1
     */
    int (*verify_token)(struct crypto *crypto, const char *signed_token, const char *token, size_t token_len);
};

struct crypto {
    SSL_CTX *ctx;            /**< For TLS of the module's own; NULL in the server's signer. */
    const char *certificate; /**< Path of a PEM file; in the server's signer no path, and NULL without a key. */
    const char *private_key; /**< Likewise. */
    crypto_status_t status;
    struct crypto_ops ops;
};

#ifndef CWEB_WITHOUT_OPENSSL

/** Limit on the size of a signature: RSA with 16384 bits. */
#define CWEB_SIGNATURE_BYTES_MAX 2048

static inline EVP_PKEY *cweb_crypto_private_key(const char *path) {
    FILE *file = path == NULL ? NULL : fopen(path, "re");
    if (file == NULL) {
        return NULL;
    }
    EVP_PKEY *key = PEM_read_PrivateKey(file, NULL, NULL, NULL);
    fclose(file);
    return key;
}

static inline EVP_PKEY *cweb_crypto_public_key(const char *path) {
    FILE *file = path == NULL ? NULL : fopen(path, "re");
    if (file == NULL) {
        return NULL;
    }
    X509 *certificate = PEM_read_X509(file, NULL, NULL, NULL);
    fclose(file);
    EVP_PKEY *key = certificate == NULL ? NULL : X509_get_pubkey(certificate);
    X509_free(certificate);
    return key;
}

static inline int cweb_crypto_sign(struct crypto *crypto, const char *token, char *out, unsigned int out_len) {
    unsigned char signature[CWEB_SIGNATURE_BYTES_MAX];
    size_t length = sizeof signature;
    if (crypto == NULL || crypto->status != CRYPTO_LOADED || token == NULL || out == NULL) {
        return -1;
    }
    EVP_PKEY *key = cweb_crypto_private_key(crypto->private_key);
    EVP_MD_CTX *digest = EVP_MD_CTX_new();
    int ok = key != NULL && digest != NULL && EVP_DigestSignInit(digest, NULL, EVP_sha256(), NULL, key) == 1 &&
             EVP_DigestSign(digest, signature, &length, (const unsigned char *)token, strlen(token)) == 1 &&
             (length + 2) / 3 * 4 < out_len;
    int written = ok ? EVP_EncodeBlock((unsigned char *)out, signature, (int)length) : -1;
    EVP_MD_CTX_free(digest);
    EVP_PKEY_free(key);
    return written;
}

/* Decodes base64, line breaks allowed. Returns the length, or -1. */
static inline int cweb_crypto_decode(const char *text, unsigned char *out, size_t out_size) {
    int length = 0;
    int last = 0;
    size_t text_length = strlen(text);
    EVP_ENCODE_CTX *decoder = EVP_ENCODE_CTX_new();
    if (decoder == NULL || text_length / 4 * 3 > out_size) {
        EVP_ENCODE_CTX_free(decoder);
        return -1;
    }
    EVP_DecodeInit(decoder);
    int ok = EVP_DecodeUpdate(decoder, out, &length, (const unsigned char *)text, (int)text_length) >= 0 &&
             EVP_DecodeFinal(decoder, out + length, &last) == 1;
    EVP_ENCODE_CTX_free(decoder);
    return ok ? length + last : -1;
}

static inline int cweb_crypto_verify(struct crypto *crypto, const char *signed_token, const char *token, size_t token_len) {
    unsigned char signature[CWEB_SIGNATURE_BYTES_MAX];
    if (crypto == NULL || crypto->status != CRYPTO_LOADED || signed_token == NULL || token == NULL) {
        return -1;
    }
    int length = cweb_crypto_decode(signed_token, signature, sizeof signature);
    EVP_PKEY *key = length < 0 ? NULL : cweb_crypto_public_key(crypto->certificate);
    EVP_MD_CTX *digest = EVP_MD_CTX_new();
    int ok = key != NULL && digest != NULL && EVP_DigestVerifyInit(digest, NULL, EVP_sha256(), NULL, key) == 1 &&
             EVP_DigestVerify(digest, signature, (size_t)length, (const unsigned char *)token, token_len) == 1;
    EVP_MD_CTX_free(digest);
    EVP_PKEY_free(key);
    return ok ? 0 : -1;
}

/**
 * Loads a certificate and its key from PEM files.
 * @param certificate  path; NULL: "server.crt". The string must outlive *crypto
 * @param private_key  path; NULL: "server.key". The string must outlive *crypto
 * @return 0; -1 when the files can't be read or don't belong together: the operations are set and fail cleanly
 */
static inline int crypto_init(struct crypto *crypto, const char *certificate, const char *private_key) {
    if (crypto == NULL) {
        return -1;
    }
    crypto->certificate = certificate != NULL ? certificate : "server.crt";
    crypto->private_key = private_key != NULL ? private_key : "server.key";
    crypto->status = CRYPTO_FAILURE;
    crypto->ops.sign_token = cweb_crypto_sign;
    crypto->ops.verify_token = cweb_crypto_verify;
    crypto->ctx = SSL_CTX_new(TLS_server_method());
    if (crypto->ctx == NULL) {
        return -1;
    }
    if (SSL_CTX_use_certificate_chain_file(crypto->ctx, crypto->certificate) != 1 ||
        SSL_CTX_use_PrivateKey_file(crypto->ctx, crypto->private_key, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(crypto->ctx) != 1) {
        SSL_CTX_free(crypto->ctx);
        crypto->ctx = NULL;
        return -1;
    }
    crypto->status = CRYPTO_LOADED;
    return 0;
}

/** Frees the memory of crypto_init(). */
static inline void crypto_shutdown(struct crypto *crypto) {
    if (crypto != NULL) {
        SSL_CTX_free(crypto->ctx);
        crypto->ctx = NULL;
        crypto->status = CRYPTO_FAILURE;
    }
}

#endif /* CWEB_WITHOUT_OPENSSL */

#ifdef __cplusplus
}
#endif

#endif /* CWEB_CRYPTO_H */
