#!/usr/bin/env bash
# Plaintext: cweb against the bare monoio + httparse floor, and that floor with cweb's ring flags, interleaved. Server on core 0, wrk on core 1, 64 connections.
#   bench/plaintext.sh [ROUNDS [SECONDS]]     prints a Markdown table of medians; CPU is user + system time of the server; CWEB names another binary
set -eu
cd "$(dirname "$0")/.."
rounds=${1:-3}
seconds=${2:-8}
command -v wrk >/dev/null || { echo "wrk is missing: apt-get install wrk" >&2; exit 1; }
binary=${CWEB:-target/release/cweb}
[ -n "${CWEB:-}" ] || cargo build --release --quiet
cargo build --release --quiet --manifest-path bench/floor/Cargo.toml
tmp=$(mktemp -d)
pids=
trap 'kill $pids 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$tmp"' EXIT

taskset -c 0 bench/floor/target/release/floor 18081 & pids="$pids $!"; floor=$!
taskset -c 0 bench/floor/target/release/floor 18083 flags & pids="$pids $!"; flags=$!
taskset -c 0 "$binary" serve --shards 1 --isolation none --port 18082 --data-dir "$tmp" -s 2>"$tmp/log" & pids="$pids $!"; cweb=$!
for _ in $(seq 100); do grep -q listening "$tmp/log" && break; sleep 0.1; done
curl -sSf -o /dev/null --data-binary @example/plaintext.c http://127.0.0.1:18082/mgnt

ticks() { awk '{print $14 + $15}' "/proc/$1/stat"; }

# measure NAME PID URL [WRK ARGS]
measure() {
    name=$1 pid=$2 url=$3
    shift 3
    before=$(ticks "$pid")
    taskset -c 1 wrk -t1 -c64 -d"$seconds" --latency "$@" "$url" >"$tmp/wrk"
    after=$(ticks "$pid")
    awk -v name="$name" -v ticks=$((after - before)) -v hz="$(getconf CLK_TCK)" '
        / requests in / { n = $1 } /Requests\/sec/ { rate = $2 } /99%/ { p99 = $2 } /Socket errors|Non-2xx/ { errors = $0 }
        END { printf "%s %.3f %.0f %s %s\n", name, ticks / hz * 1e6 / n, rate, p99, errors }' "$tmp/wrk" >>"$tmp/results"
}

for _ in $(seq "$rounds"); do
    measure floor "$floor" http://127.0.0.1:18081/plaintext
    measure flags-floor "$flags" http://127.0.0.1:18083/plaintext
    measure cweb "$cweb" http://127.0.0.1:18082/plaintext
    measure floor-pipelined "$floor" http://127.0.0.1:18081/plaintext -s bench/pipeline.lua
    measure flags-floor-pipelined "$flags" http://127.0.0.1:18083/plaintext -s bench/pipeline.lua
    measure cweb-pipelined "$cweb" http://127.0.0.1:18082/plaintext -s bench/pipeline.lua
done
python3 - "$tmp/results" <<'P'
import statistics, sys
rows = {}
for line in open(sys.argv[1]):
    name, cpu, rate, p99, *errors = line.split(maxsplit=4)
    rows.setdefault(name, []).append((float(cpu), float(rate), p99, errors))
print("| | CPU µs a request | requests/s | p99 (last) | CPU / floor |\n| --- | --- | --- | --- | --- |")
for name, runs in rows.items():
    cpu = statistics.median(r[0] for r in runs)
    base = statistics.median(r[0] for r in rows[name.replace("cweb", "floor").replace("flags-", "")])
    print(f"| {name} | {cpu:.3f} | {statistics.median(r[1] for r in runs):.0f} | {runs[-1][2]} | {cpu / base:.2f} |")
    for r in runs:
        if r[3]: print("errors:", r[3])
P
