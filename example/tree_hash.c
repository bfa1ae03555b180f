/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The hash of an upload of any size as the root of a Merkle tree (RFC 9162 section 2.1.1) over leaves of 1 MiB, in constant
 * memory: parts of a file can be checked against it later without the rest.
 *
 *     curl -T big.iso http://127.0.0.1:8080/tree-hash
 */
#include <cweb.h>
#include <cweb_stream.h>
#include <openssl/evp.h>

enum { LEAF_BYTES = 1 << 20, HASH_BYTES = 32, LEVELS_MAX = 64 };

typedef struct {
    unsigned char hash[LEVELS_MAX][HASH_BYTES];
    int level[LEVELS_MAX]; /* 0: of a leaf */
    int count;
} tree_t;

static void digest_of(unsigned char kind, const void *left, size_t left_bytes, const void *right, unsigned char *out) {
    EVP_MD_CTX *sha = EVP_MD_CTX_new();
    EVP_DigestInit_ex(sha, EVP_sha256(), NULL);
    EVP_DigestUpdate(sha, &kind, 1);
    EVP_DigestUpdate(sha, left, left_bytes);
    if (right != NULL) EVP_DigestUpdate(sha, right, HASH_BYTES);
    EVP_DigestFinal_ex(sha, out, NULL);
    EVP_MD_CTX_free(sha);
}

/* Joins the last two nodes. */
static void join_last(tree_t *tree) {
    int left = tree->count - 2;
    unsigned char joined[HASH_BYTES];
    digest_of(1, tree->hash[left], HASH_BYTES, tree->hash[left + 1], joined);
    memcpy(tree->hash[left], joined, HASH_BYTES);
    tree->level[left]++;
    tree->count--;
}

static void add_leaf(tree_t *tree, const unsigned char *bytes, size_t n) {
    digest_of(0, bytes, n, NULL, tree->hash[tree->count]);
    tree->level[tree->count++] = 0;
    while (tree->count > 1 && tree->level[tree->count - 1] == tree->level[tree->count - 2]) join_last(tree);
}

static int tree_hash(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    tree_t *tree = cweb_alloc(req, sizeof *tree);
    unsigned char *leaf = cweb_alloc(req, LEAF_BYTES);
    if (tree == NULL || leaf == NULL) return cweb_respond(res, HTTP_500_INTERNAL_SERVER_ERROR, NULL, "no memory\n");
    size_t filled = 0;
    long long total = 0;
    ssize_t n;
    while ((n = cweb_read(req, leaf + filled, LEAF_BYTES - filled)) > 0) {
        filled += (size_t)n;
        total += n;
        if (filled == LEAF_BYTES) {
            add_leaf(tree, leaf, filled);
            filled = 0;
        }
    }
    if (n < 0) return -1; /* the client left, or its body is malformed */
    if (filled > 0 || total == 0) add_leaf(tree, leaf, filled);
    while (tree->count > 1) join_last(tree);
    char text[2 * HASH_BYTES + 1];
    for (int i = 0; i < HASH_BYTES; i++) snprintf(text + 2 * i, 3, "%02x", tree->hash[0][i]);
    return cweb_respond(res, HTTP_200_OK, "text/plain", "%s  %lld bytes\n", text, total);
}

export module_t config = {
    .name = "tree_hash",
    .author = "cweb",
    .routes = {{"/tree-hash", "PUT", tree_hash, CWEB_STREAM}},
    .size = 1,
};
