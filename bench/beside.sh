#!/usr/bin/env bash
# 64 connections of plaintext alone and beside an endless upload through a handler of the same domain that hashes it (SHA-256), and beside an endless
# download, isolated: p50 and p99 in ms, medians of interleaved rounds, and their ratio. The server has its default number of shards, and
# its processes and the clients run where the kernel puts them.
#   bench/beside.sh [ROUNDS [SECONDS]]     prints a Markdown table; CWEB names another binary, SHARDS another number of shards
set -eu
cd "$(dirname "$0")/.."
rounds=${1:-3}
seconds=${2:-5}
binary=${CWEB:-target/release/cweb}
[ -n "${CWEB:-}" ] || cargo build --release --quiet
tmp=$(mktemp -d)
pids=
trap 'kill $pids 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$tmp"' EXIT
cat >"$tmp/beside.c" <<'C'
#include <cweb.h>
#include <cweb_stream.h>
#include <openssl/evp.h>
static int plain(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c, (void)q; return cweb_respond(r, HTTP_200_OK, "text/plain", "Hello, World!"); }
static int up(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)c; EVP_MD_CTX *sum = EVP_MD_CTX_new(); const void *bytes; size_t n;
    EVP_DigestInit_ex(sum, EVP_sha256(), NULL);
    while (cweb_read_view(q, &bytes, &n) > 0) EVP_DigestUpdate(sum, bytes, n);
    EVP_MD_CTX_free(sum);
    return cweb_respond(r, HTTP_200_OK, NULL, "over");
}
static int down(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)c, (void)q; static char zeros[256 * 1024];
    cweb_begin(r, HTTP_200_OK);
    while (cweb_write(r, zeros, sizeof zeros) == 0) { }
    return 0;
}
export module_t config = {.name = "beside", .author = "bench", .routes = {{"/plain", "GET", plain, NONE}, {"/up", "PUT", up, CWEB_STREAM}, {"/down", "GET", down, CWEB_STREAM}}, .size = 3};
C
port=18140
"$binary" serve --shards "${SHARDS:-$(nproc)}" --isolation process --port $port --data-dir "$tmp/data" -s 2>"$tmp/log" & pids="$pids $!"
for _ in $(seq 100); do grep -q listening "$tmp/log" && break; sleep 0.1; done
curl -sSf -o /dev/null --data-binary @"$tmp/beside.c" "http://127.0.0.1:$port/mgnt"
measure() { wrk -t1 -c64 -d"${seconds}s" --latency "http://127.0.0.1:$port/plain" | awk -v n="$1" '/ 50%| 99%/ { print n, $1, $2 }' >>"$tmp/all"; }
measure warm
for _ in $(seq "$rounds"); do
    measure alone
    curl -sS -o /dev/null -T /dev/zero "http://127.0.0.1:$port/up" & other=$!
    measure up; kill $other; wait $other 2>/dev/null || true
    curl -sS -o /dev/null "http://127.0.0.1:$port/down" & other=$!
    measure down; kill $other; wait $other 2>/dev/null || true
done
python3 - "$tmp/all" <<'P'
import re, statistics, sys
found = {}
for line in open(sys.argv[1]):
    name, part, text = line.split()
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    found.setdefault((name, part), []).append(float(number) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit])
median = {key: statistics.median(all_) for key, all_ in found.items()}
print("| plaintext, 64 connections | p50, ms | p99, ms | p99 / alone |\n| --- | --- | --- | --- |")
for name in ("alone", "up", "down"):
    print(f"| {name} | {median[name, '50%']:.2f} | {median[name, '99%']:.2f} | {median[name, '99%'] / median['alone', '99%']:.2f} |")
P
