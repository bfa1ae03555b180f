#!/usr/bin/env bash
# A room of 10,000 WebSockets, in both isolation modes: whether every message reaches each of them once and in order, and what a publish
# costs, with and without permessage-deflate. A publish that is encoded once costs the module's process (with --isolation none: the
# server) the same for one socket as for 10,000. Server on core 0, clients on core 1; under a minute.
#   bench/rooms.sh [SOCKETS [MESSAGES]]     CWEB names the server (default: target/release/cweb, which is built)
# If UWEBSOCKETS names a checkout of uWebSockets with uSockets in it, the same room follows in interleaved rounds (ROUNDS, 7) beside
# that server, with one message under way and with up to eight. Its messages have 64 bytes and come from one of the sockets.
set -eu
cd "$(dirname "$0")/.."
sockets=${1:-10000}
messages=${2:-20}
cweb=${CWEB:-target/release/cweb}
[ -n "${CWEB:-}" ] || cargo build --release --quiet
ulimit -n "$(ulimit -Hn)"
export CWEB_MAX_CONNECTIONS_PER_PEER=0 # all clients are on one machine
work=$(mktemp -d)
chmod 755 "$work"
pids=
trap 'kill $pids 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT
echo "| mode | compression | sockets | frames came | lost | bytes each | CPU ms a publish: server | modules | µs a frame |"
echo "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
for mode in none process; do
    taskset -c 0 "$cweb" serve --port 0 --shards 1 --isolation "$mode" --data-dir "$work/$mode" >"$work/$mode.log" 2>&1 &
    pids="$pids $!"
    server=$!
    address=
    for _ in $(seq 300); do
        address=$(sed -n 's/.*listening on http:\/\/\([0-9.:]*\).*/\1/p' "$work/$mode.log" | head -n 1)
        [ -z "$address" ] || break
        sleep 0.1
    done
    [ -n "$address" ] || { cat "$work/$mode.log" >&2; exit 1; }
    curl -sSf -o /dev/null --data-binary @example/chat.c "http://$address/mgnt"
    for deflate in off on; do
        for count in 1 "$sockets"; do
            taskset -c 1 python3 bench/rooms.py "$mode" "$server" "${address##*:}" "$deflate" "$count" "$messages"
        done
    done
    kill "$server"
done
[ -n "${UWEBSOCKETS:-}" ] || exit 0

(cd "$work" && gcc -O3 -DLIBUS_NO_SSL -I"$UWEBSOCKETS/uSockets/src" -c "$UWEBSOCKETS"/uSockets/src/*.c "$UWEBSOCKETS"/uSockets/src/eventing/*.c)
g++ -std=c++20 -O3 -DLIBUS_NO_SSL -DUWS_NO_ZLIB -I"$UWEBSOCKETS/src" -I"$UWEBSOCKETS/uSockets/src" bench/websocket/uws.cpp "$work"/*.o -o "$work/uws"
[ -n "${CLIENT:-}" ] || cargo build --release --quiet --manifest-path bench/websocket/Cargo.toml
client=${CLIENT:-bench/websocket/target/release/websocket-bench}
names=
# start NAME PORT COMMAND…: on core 0, until it listens
start() {
    taskset -c 0 "${@:3}" >"$work/$1.log" 2>&1 &
    pids="$pids $!"
    names="$names $1:$!:$2"
    for _ in $(seq 300); do
        ! grep -q listening "$work/$1.log" || return 0
        sleep 0.1
    done
    cat "$work/$1.log" >&2
    exit 1
}
# cweb ISOLATION PORT
cweb() {
    start "cweb-$1" "$2" "$cweb" serve --port "$2" --shards 1 --isolation "$1" --data-dir "$work/room-$1"
    # Where modules run in the server, callbacks run on the shard's own thread.
    sed 's/\.on_close = leave}/.on_close = leave, .flags = CWEB_INLINE}/' example/chat.c |
        curl -sSf -o /dev/null --data-binary @- "http://127.0.0.1:$2/mgnt"
}
# ran PID: nanoseconds that the threads of a server and of its processes have run
ran() {
    for pid in "$1" $(cat /proc/"$1"/task/*/children); do cat /proc/"$pid"/task/*/schedstat; done | awk '{ sum += $1 } END { printf "%.0f\n", sum }'
}
start uwebsockets 18114 "$work/uws" 18114
cweb none 18115
cweb process 18116
for _ in $(seq "${ROUNDS:-7}"); do
    for ahead in 1 8; do
        for server in $names; do
            IFS=: read -r name pid port <<<"$server"
            rm -f "$work/go" "$work/said"
            mkfifo "$work/go"
            taskset -c 1 "$client" room "$port" /chat/all/ws "$sockets" "$messages" "$ahead" <"$work/go" >"$work/said" &
            talking=$!
            exec 3>"$work/go"
            for _ in $(seq 600); do
                ! grep -q open "$work/said" 2>/dev/null || break
                sleep 0.1
            done
            before=$(ran "$pid")
            echo >&3
            for _ in $(seq 6000); do
                [ "$(wc -l <"$work/said")" -lt 2 ] || break
                sleep 0.01
            done
            echo "$name $ahead $(($(ran "$pid") - before)) $(tail -n 1 "$work/said")" >>"$work/results"
            exec 3>&-
            wait "$talking"
        done
    done
done
python3 - "$work/results" <<'P'
import statistics, sys

rows = {}
for line in open(sys.argv[1]):
    name, ahead, *figures = line.split()
    rows.setdefault((ahead, name), []).append([int(figure) for figure in figures])
print("\n| server | messages under way | CPU µs a frame | frames a CPU second / uWebSockets: median of rounds (lowest, highest) | lost |")
print("| --- | --- | --- | --- | --- |")
for ahead, name in sorted(rows):
    runs, peers = rows[ahead, name], rows[ahead, "uwebsockets"]
    cost = statistics.median(ns / came / 1000 for ns, came, *_ in runs)
    ratios = [peer[0] / peer[1] * run[1] / run[0] for run, peer in zip(runs, peers)]
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}, {max(ratios):.2f})"
    print(f"| {name} | {ahead} | {cost:.2f} | {spread} | {sum(run[2] for run in runs)} |")
P
