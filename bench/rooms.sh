#!/usr/bin/env bash
# A room of 10,000 WebSockets, in both isolation modes: whether every message reaches each of them once and in order, and what a publish
# costs, with and without permessage-deflate. A publish that is encoded once costs the module's process (with --isolation none: the
# server) the same for one socket as for 10,000. Server on core 0, clients on core 1; under a minute.
#   bench/rooms.sh [SOCKETS [MESSAGES]]     CWEB names the server (default: target/release/cweb, which is built)
set -eu
cd "$(dirname "$0")/.."
sockets=${1:-10000}
messages=${2:-20}
cweb=${CWEB:-target/release/cweb}
[ -n "${CWEB:-}" ] || cargo build --release --quiet
ulimit -n "$(ulimit -Hn)"
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
