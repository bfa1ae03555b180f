#!/usr/bin/env bash
# Streams: a body of GIB GiB up through a handler that hashes it (SHA-256) and as much down, isolated and in process: seconds, whether the digest is
# right, and by how much the resident memory of the server and its processes has grown at most. Beside it the bare loop: openssl dgst of a pipe.
#   bench/streams.sh [GIB]     prints a Markdown table; CWEB names another binary
set -eu
cd "$(dirname "$0")/.."
gib=${1:-10}
binary=${CWEB:-target/release/cweb}
[ -n "${CWEB:-}" ] || cargo build --release --quiet
tmp=$(mktemp -d)
pids=
trap 'kill $pids 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$tmp"' EXIT
cat >"$tmp/streams.c" <<'C'
#include <cweb.h>
#include <cweb_stream.h>
#include <openssl/evp.h>
static int up(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)c;
    EVP_MD_CTX *sum = EVP_MD_CTX_new();
    const void *bytes; size_t n; int got; unsigned char out[32]; char text[65];
    EVP_DigestInit_ex(sum, EVP_sha256(), NULL);
    while ((got = cweb_read_view(q, &bytes, &n)) > 0) EVP_DigestUpdate(sum, bytes, n);
    EVP_DigestFinal_ex(sum, out, NULL);
    EVP_MD_CTX_free(sum);
    for (int i = 0; i < 32; i++) snprintf(text + 2 * i, 3, "%02x", out[i]);
    return got < 0 ? cweb_respond(r, (http_error_t)400, NULL, "broken off") : cweb_respond(r, HTTP_200_OK, NULL, "%s", text);
}
static int down(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)c;
    static char zeros[256 * 1024];
    long long left = atoll(http_kv_get(q->params, "bytes"));
    cweb_begin(r, HTTP_200_OK);
    for (; left > 0; left -= (long long)sizeof zeros) if (cweb_write(r, zeros, sizeof zeros) != 0) break;
    return 0;
}
export module_t config = {.name = "streams", .author = "bench", .routes = {{"/up", "PUT", up, CWEB_STREAM}, {"/down", "GET", down, CWEB_STREAM}}, .size = 2};
C
truncate -s "${gib}G" "$tmp/zeros"
resident() { # of a process and its children, KiB
    # shellcheck disable=SC2046,SC2013 # lists of words
    cat "/proc/$1/status" $(for task in /proc/"$1"/task/*/children; do for pid in $(cat "$task"); do echo "/proc/$pid/status"; done; done) 2>/dev/null |
        awk '/^VmRSS/ { sum += $2 } END { print sum }'
}
# Runs a command; prints its seconds, then the most by which process $1 and its children grew meanwhile, MiB.
measured() {
    server=$1; shift
    before=$(resident "$server"); most=$before; begun=$(date +%s.%N)
    "$@" & job=$!
    while kill -0 $job 2>/dev/null; do now=$(resident "$server"); [ "$now" -le "$most" ] || most=$now; sleep 0.2; done
    wait $job
    awk -v a="$begun" -v b="$(date +%s.%N)" -v c="$before" -v d="$most" 'BEGIN { printf "%.2f %.1f", b - a, (d - c) / 1024 }'
}
begun=$(date +%s.%N)
# shellcheck disable=SC2002 # through a pipe, as a body comes
expected=$(cat "$tmp/zeros" | openssl dgst -sha256 -r | cut -d' ' -f1)
bare=$(awk -v a="$begun" -v b="$(date +%s.%N)" 'BEGIN { printf "%.2f", b - a }')
echo "| $gib GiB | s | digest or bytes | resident growth, MiB |"
echo "| --- | --- | --- | --- |"
echo "| bare loop, up | $bare | right | |"
port=18130
for isolation in process none; do
    "$binary" serve --shards 1 --isolation $isolation --port $port --data-dir "$tmp/$isolation" -s 2>"$tmp/$isolation.log" & server=$!; pids="$pids $server"
    for _ in $(seq 100); do grep -q listening "$tmp/$isolation.log" && break; sleep 0.1; done
    curl -sSf -o /dev/null --data-binary @"$tmp/streams.c" "http://127.0.0.1:$port/mgnt"
    curl -sSf -o /dev/null "http://127.0.0.1:$port/down?bytes=100000000"
    read -r seconds growth < <(measured "$server" curl -sSf -o "$tmp/digest" -T "$tmp/zeros" "http://127.0.0.1:$port/up"; echo)
    [ "$(cat "$tmp/digest")" = "$expected" ] && found=right || found=wrong
    echo "| $isolation, up | $seconds | $found | $growth |"
    bytes=$((gib << 30))
    read -r seconds growth < <(measured "$server" sh -c "curl -sSf 'http://127.0.0.1:$port/down?bytes=$bytes' | wc -c >'$tmp/count'"; echo)
    [ "$(cat "$tmp/count")" = "$bytes" ] && found=right || found=wrong
    echo "| $isolation, down | $seconds | $found | $growth |"
    kill "$server"; wait "$server" 2>/dev/null || true
    port=$((port + 1))
done
