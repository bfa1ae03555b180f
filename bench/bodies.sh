#!/usr/bin/env bash
# Large bodies: what a byte costs up and down at 31, 33 and 63 MiB, how long another route of the same domain takes meanwhile and beside 64 uploads of
# 63 MiB at once, and WebSocket messages of 1 and 15 MiB; isolated beside in-process. Server on core 0, client on core 1.
#   bench/bodies.sh [ROUNDS]     prints a Markdown table of medians; CWEB names another binary, UPLOADS another number of uploads
set -eu
cd "$(dirname "$0")/.."
rounds=${1:-3}
binary=${CWEB:-target/release/cweb}
[ -n "${CWEB:-}" ] || cargo build --release --quiet
tmp=$(mktemp -d)
pids=
trap 'kill $pids 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$tmp"' EXIT
cat >"$tmp/bodies.c" <<'C'
#include <cweb.h>
static int up(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; return cweb_respond(r, HTTP_200_OK, "text/plain", "%d", q->content_length); }
static int down(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)c; size_t n = strtoul(http_kv_get(q->params, "bytes"), NULL, 10); char *body = malloc(n + 1); if (!body) return -1;
    memset(body, 'd', n); body[n] = 0; free(r->body); r->body = body; r->content_length = (int)n; return 0;
}
static int quick(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c, (void)q; return cweb_respond(r, HTTP_200_OK, "text/plain", "quick"); }
static void len(struct cweb_context *c, websocket_t *ws, const char *m, size_t n) { (void)c, (void)m; char b[32]; snprintf(b, sizeof b, "%zu", n); ws->send(ws, b, strlen(b)); }
export module_t config = {.name = "bodies", .author = "bench", .routes = {{"/up", "POST", up, CWEB_BODY_MIB(64)}, {"/down", "GET", down, NONE}, {"/quick", "GET", quick, NONE}}, .size = 3,
    .websockets = {{"/len", NULL, len, NULL}}, .ws_size = 1};
C
port=18110
for isolation in process none; do
    taskset -c 0 "$binary" serve --shards 1 --isolation $isolation --port $port --data-dir "$tmp/$isolation" --bodies-bytes-max 6000000000 --memory-bytes-max 16000000000 -s 2>"$tmp/$isolation.log" & pids="$pids $!"
    for _ in $(seq 100); do grep -q listening "$tmp/$isolation.log" && break; sleep 0.1; done
    curl -sSf -o /dev/null --data-binary @"$tmp/bodies.c" "http://127.0.0.1:$port/mgnt"
    taskset -c 1 python3 bench/bodies.py $port "$rounds" >"$tmp/$isolation.txt"
    kill "${pids##* }"
    wait "${pids##* }" 2>/dev/null || true
    port=$((port + 1))
done
python3 - "$tmp" <<'P'
import sys
read = lambda name: dict(line.split() for line in open(f"{sys.argv[1]}/{name}.txt"))
process, none = read("process"), read("none")
print("| | isolated | in process |\n| --- | --- | --- |")
for name in process:
    unit = "" if name == "many-ok" else "ns a byte" if name.startswith(("up", "down")) else "ms"
    print(f"| {name}{', ' if unit else ''}{unit} | {process[name]} | {none[name]} |")
P
