#!/usr/bin/env bash
# WebSockets: echo and a message to all, cweb in both isolation modes beside tokio-tungstenite (and uWebSockets, if UWEBSOCKETS names a checkout of its
# sources with uSockets in it), interleaved; and what 10,000 idle connections hold. Servers on core 0, clients on core 1.
#   bench/websocket.sh [ROUNDS [SECONDS]]     prints Markdown tables of medians; CPU is user + system time of all of a server's processes; CWEB names another binary
set -eu
cd "$(dirname "$0")/.."
rounds=${1:-3}
seconds=${2:-8}
binary=${CWEB:-target/release/cweb}
[ -n "${CWEB:-}" ] || cargo build --release --quiet
cargo build --release --quiet --manifest-path bench/websocket/Cargo.toml
client=bench/websocket/target/release/websocket-bench
ulimit -n "$(ulimit -Hn)"
export CWEB_MAX_CONNECTIONS_PER_PEER=0 # all clients are on one machine
tmp=$(mktemp -d)
pids=
trap 'kill $pids 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$tmp"' EXIT

# start NAME COMMAND…: on core 0, until it listens
start() {
    taskset -c 0 "${@:2}" 2>"$tmp/$1.log" & pids="$pids $!"
    for _ in $(seq 100); do grep -q listening "$tmp/$1.log" && return; sleep 0.1; done
    cat "$tmp/$1.log" >&2 && exit 1
}
# cweb ISOLATION PORT
cweb() {
    start "cweb-$1" "$binary" serve --shards 1 --isolation "$1" --port "$2" --data-dir "$tmp/$1" -s
    for example in websocket_echo chat; do curl -sSf -o /dev/null --data-binary @example/$example.c "http://127.0.0.1:$2/mgnt"; done
}
start tungstenite $client peer 18101; names="tungstenite:${pids##* }:18101"
cweb none 18102; names="$names cweb-none:${pids##* }:18102"
cweb process 18103; names="$names cweb-process:${pids##* }:18103"
if [ -n "${UWEBSOCKETS:-}" ]; then
    (cd "$tmp" && gcc -O3 -DLIBUS_NO_SSL -I"$UWEBSOCKETS/uSockets/src" -c "$UWEBSOCKETS"/uSockets/src/*.c "$UWEBSOCKETS"/uSockets/src/eventing/*.c)
    g++ -std=c++20 -O3 -DLIBUS_NO_SSL -DUWS_NO_ZLIB -I"$UWEBSOCKETS/src" -I"$UWEBSOCKETS/uSockets/src" bench/websocket/uws.cpp "$tmp"/*.o -o "$tmp/uws"
    start uwebsockets "$tmp/uws" 18104; names="$names uwebsockets:${pids##* }:18104"
fi

family() { echo "$1"; cat /proc/"$1"/task/*/children; }
ticks() { for pid in $(family "$1"); do awk '{ print $14 + $15 }' "/proc/$pid/stat"; done | awk '{ sum += $1 } END { print sum }'; }
resident() { for pid in $(family "$1"); do awk '/^Pss:/ { print $2 }' "/proc/$pid/smaps_rollup"; done | awk '{ sum += $1 } END { print sum }'; }

# The connections' own memory, while nothing else has been: what load leaves behind would hide it.
for server in $names; do
    IFS=: read -r name pid port <<<"$server"
    for path in - /echo; do
        [ "$path" = /echo ] || case $name in cweb*) ;; *) continue ;; esac
        before=$(resident "$pid")
        mkfifo "$tmp/open"
        $client idle "$port" "$path" 10000 <"$tmp/open" >"$tmp/idle" & idle=$!
        exec 3>"$tmp/open"
        for _ in $(seq 300); do grep -q open "$tmp/idle" && break; sleep 0.1; done
        sleep 1
        echo "$name $path $(($(resident "$pid") - before))" >>"$tmp/memory"
        exec 3>&- && wait "$idle"
        rm "$tmp/open"
        sleep 1
    done
done
for _ in $(seq "$rounds"); do
    for server in $names; do
        IFS=: read -r name pid port <<<"$server"
        before=$(ticks "$pid")
        taskset -c 1 $client echo "$port" /echo 64 64 "$seconds" >"$tmp/echo"
        middle=$(ticks "$pid")
        taskset -c 1 $client broadcast "$port" /chat/all/ws 1000 200 >"$tmp/all"
        echo "$name $((middle - before)) $(cat "$tmp/echo") $(($(ticks "$pid") - middle)) $(cat "$tmp/all")" >>"$tmp/results"
    done
done
python3 - "$tmp" "$(getconf CLK_TCK)" "$seconds" <<'P'
import statistics, sys
tmp, hz, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rows = {}
for line in open(f"{tmp}/results"):
    name, *figures = line.split()
    rows.setdefault(name, []).append([int(figure) for figure in figures])
median = lambda name, of: statistics.median(of(run) for run in rows[name])
each = lambda run: run[1] * hz / run[0]
print("| echo, 64 sockets, 64 bytes | messages a CPU second | / tungstenite | messages/s | p50, p99 µs |\n| --- | --- | --- | --- | --- |")
for name in rows:
    print(f"| {name} | {median(name, each):,.0f} | {median(name, each) / median('tungstenite', each):.2f} | {median(name, lambda r: r[1]) / seconds:,.0f} | {median(name, lambda r: r[2]):.0f}, {median(name, lambda r: r[3]):.0f} |")
print("\n| 200 messages to 1,000 sockets each | frames a CPU second | / tungstenite | lost | ms |\n| --- | --- | --- | --- | --- |")
frames = lambda run: run[5] * hz / max(run[4], 1)
for name in rows:
    print(f"| {name} | {median(name, frames):,.0f} | {median(name, frames) / median('tungstenite', frames):.2f} | {sum(r[6] for r in rows[name])} | {median(name, lambda r: r[7]):.0f} |")
print("\n| 10,000 idle | KiB each |\n| --- | --- |")
for line in open(f"{tmp}/memory"):
    name, path, kib = line.split()
    print(f"| {name}, {'keep-alive' if path == '-' else 'WebSocket'} | {int(kib) / 10_000:.2f} |")
P
