#!/usr/bin/env bash
# What a route that computes for 50 ms costs the others: p99 of the plaintext handler alone, and while four clients keep that route
# busy, interleaved. Shard and the load of the plaintext on core 0, the long handlers and their clients on core 1.
#   bench/head_of_line.sh [ROUNDS [SECONDS]]     prints a Markdown table of medians; CWEB names another binary
set -eu
cd "$(dirname "$0")/.."
rounds=${1:-3}
seconds=${2:-8}
command -v wrk >/dev/null || { echo "wrk is missing: apt-get install wrk" >&2; exit 1; }
binary=${CWEB:-target/release/cweb}
[ -n "${CWEB:-}" ] || cargo build --release --quiet
tmp=$(mktemp -d)
pids=
trap 'kill $pids 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$tmp"' EXIT
cat >"$tmp/busy.c" <<'C'
#include <cweb.h>
#include <time.h>
static int busy(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx; (void)req;
    struct timespec begun, now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begun);
    do clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    while ((now.tv_sec - begun.tv_sec) * 1000000000L + now.tv_nsec - begun.tv_nsec < 50000000L);
    snprintf(res->body, HTTP_RESPONSE_SIZE, "done");
    return 0;
}
export module_t config = {.name = "busy", .author = "bench", .routes = {{"/busy", "GET", busy, NONE}}, .size = 1};
C
start() {
    mkdir -p "$tmp/$1"
    "$binary" serve --shards 1 --isolation "$1" --port "$2" --data-dir "$tmp/$1" -s 2>"$tmp/$1.log" </dev/null &
    pids="$pids $!"
    for _ in $(seq 100); do grep -q listening "$tmp/$1.log" && break; sleep 0.1; done
    curl -sSf -o /dev/null --data-binary @example/plaintext.c "http://127.0.0.1:$2/mgnt"
    curl -sSf -o /dev/null --data-binary @"$tmp/busy.c" "http://127.0.0.1:$2/mgnt"
    curl -sSf "http://127.0.0.1:$2/busy" >/dev/null
}
start none 18091
start process 18092

# measure NAME PORT CONNECTIONS
measure() {
    taskset -c 0 wrk -t1 -c"$3" -d"$seconds" --latency "http://127.0.0.1:$2/plaintext" >"$tmp/wrk"
    awk -v name="$1" '
        function us(text) { return text ~ /us$/ ? text + 0 : text ~ /ms$/ ? text * 1e3 : text * 1e6 }
        /Requests\/sec/ { rate = $2 } /50%/ { p50 = us($2) } /99%/ { p99 = us($2) } /Socket errors|Non-2xx/ { bad = 1 }
        END { if (bad) { print "errors in " name >"/dev/stderr"; exit 1 } printf "%s %.0f %.0f %.0f\n", name, rate, p50, p99 }' "$tmp/wrk" >>"$tmp/results"
}
for _ in $(seq "$rounds"); do
    for connections in 1 64; do
        for server in none:18091 process:18092; do
            name=${server%:*} port=${server#*:}
            measure "$name-$connections-alone" "$port" "$connections"
            taskset -c 1 wrk -t1 -c4 -d$((seconds + 2)) "http://127.0.0.1:$port/busy" >"$tmp/busy" &
            load=$!
            sleep 1
            measure "$name-$connections-beside" "$port" "$connections"
            wait "$load"
            awk -v name="$name-$connections-busy" '/Requests\/sec/ { printf "%s %.1f 0 0\n", name, $2 }' "$tmp/busy" >>"$tmp/results"
        done
    done
done
python3 - "$tmp/results" <<'P'
import statistics, sys
rows = {}
for line in open(sys.argv[1]):
    name, *figures = line.split()
    rows.setdefault(name, []).append(tuple(map(float, figures)))
median = lambda name, column: statistics.median(row[column] for row in rows[name])
print("| modules, connections | p50 alone, µs | p99 alone | p50 beside | p99 beside | p99 beside / alone | long requests/s meanwhile |")
print("| --- | --- | --- | --- | --- | --- | --- |")
for isolation in "none", "process":
    for connections in "1", "64":
        key = f"{isolation}-{connections}-"
        alone, beside = median(key + "alone", 2), median(key + "beside", 2)
        print(f"| {isolation}, {connections} | {median(key + 'alone', 1):.0f} | {alone:.0f} | {median(key + 'beside', 1):.0f} | "
              f"{beside:.0f} | {beside / alone:.2f} | {median(key + 'busy', 0):.1f} |")
P
