#!/usr/bin/env bash
# What a process of its own costs: the inline plaintext handler in the server, the same in a domain, interleaved. Server and
# domain on core 0, wrk on core 1.
#   bench/isolation.sh [ROUNDS [SECONDS]]     prints a Markdown table of medians; CPU is that of server and domain together; CWEB names another binary
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
start() {
    mkdir -p "$tmp/$1"
    taskset -c 0 "$binary" serve --shards 1 --isolation "$1" --port "$2" --data-dir "$tmp/$1" -s 2>"$tmp/$1.log" &
    pids="$pids $!"
    for _ in $(seq 100); do grep -q listening "$tmp/$1.log" && break; sleep 0.1; done
    curl -sSf -o /dev/null --data-binary @example/plaintext.c "http://127.0.0.1:$2/mgnt"
}
start none 18091; none=${pids##* }
start process 18092; process=${pids##* }

# ticks PID: user and system time of the process and its children that live
ticks() {
    for pid in "$1" $(cat /proc/"$1"/task/*/children); do awk '{ print $14 + $15 }' "/proc/$pid/stat"; done |
        awk '{ sum += $1 } END { print sum }'
}

# measure NAME PID PORT CONNECTIONS
measure() {
    before=$(ticks "$2")
    taskset -c 1 wrk -t1 -c"$4" -d"$seconds" --latency "http://127.0.0.1:$3/plaintext" >"$tmp/wrk"
    after=$(ticks "$2")
    awk -v name="$1-$4" -v ticks=$((after - before)) -v hz="$(getconf CLK_TCK)" '
        / requests in / { n = $1 } /Requests\/sec/ { rate = $2 } /50%/ { p50 = $2 } /99%/ { p99 = $2 }
        END { printf "%s %.3f %.0f %s %s\n", name, ticks / hz * 1e6 / n, rate, p50, p99 }' "$tmp/wrk" >>"$tmp/results"
}
for _ in $(seq "$rounds"); do
    for connections in 64 1; do
        measure none "$none" 18091 "$connections"
        measure process "$process" 18092 "$connections"
    done
done
python3 - "$tmp/results" <<'P'
import statistics, sys
rows = {}
for line in open(sys.argv[1]):
    name, cpu, rate, p50, p99 = line.split()
    rows.setdefault(name, []).append((float(cpu), float(rate), p50, p99))
print("| | CPU µs a request | requests/s | p50, p99 (last) | CPU / none | rate / none |\n| --- | --- | --- | --- | --- | --- |")
for name, runs in sorted(rows.items(), key=lambda item: (-int(item[0].split("-")[1]), item[0])):
    cpu, rate = statistics.median(r[0] for r in runs), statistics.median(r[1] for r in runs)
    base = rows[name.replace("process", "none")]
    ratio = cpu / statistics.median(r[0] for r in base), rate / statistics.median(r[1] for r in base)
    print(f"| {name} connections | {cpu:.3f} | {rate:.0f} | {runs[-1][2]}, {runs[-1][3]} | {ratio[0]:.2f} | {ratio[1]:.2f} |")
P
