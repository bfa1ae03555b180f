#!/usr/bin/env bash
# Static files of 64 KiB and 1 MiB: cweb (a mount in a process of its own, a mount in the server, a handler in a process of its own) against
# nginx with sendfile and a cache of open files. Server on core 0, wrk on core 1, 64 connections, interleaved.
#   bench/files.sh [ROUNDS [SECONDS]]     prints a Markdown table of medians: requests a second of the server's CPU
set -eu
cd "$(dirname "$0")/.."
rounds=${1:-3}
seconds=${2:-5}
cweb=${CWEB:-target/release/cweb}
for tool in wrk nginx; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install $tool" >&2; exit 1; }
done
[ -n "${CWEB:-}" ] || cargo build --release --quiet
tmp=$(mktemp -d)
chmod 755 "$tmp"
pids=
trap 'kill $pids 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$tmp"' EXIT
for name in apart here nginx; do
    mkdir -p "$tmp/$name/static"
    head -c 65536 /dev/urandom >"$tmp/$name/static/64k.bin"
    head -c 1048576 /dev/urandom >"$tmp/$name/static/1m.bin"
done
cat >"$tmp/site.c" <<'C'
#include <cweb.h>
#include <cweb_file.h>
static int by_handler(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    return cweb_send_file_from(req, res, "static", req->path + 3, 0);
}
export module_t config = {.name = "site", .author = "bench", .routes = {{"/h/.*", "GET", by_handler, NONE}}, .size = 1,
                          .mounts = {{"/m", "static"}}, .mount_size = 1};
C
cat >"$tmp/nginx.conf" <<N
daemon off;
master_process off;
pid $tmp/nginx/pid;
error_log $tmp/nginx/errors;
events { worker_connections 1024; }
http {
    access_log off;
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    open_file_cache max=100;
    types { }
    default_type application/octet-stream;
    client_body_temp_path $tmp/nginx/a;
    proxy_temp_path $tmp/nginx/b;
    fastcgi_temp_path $tmp/nginx/c;
    uwsgi_temp_path $tmp/nginx/d;
    scgi_temp_path $tmp/nginx/e;
    server { listen 127.0.0.1:18090; root $tmp/nginx/static; }
}
N
taskset -c 0 nginx -c "$tmp/nginx.conf" -p "$tmp/nginx" 2>/dev/null & pids="$pids $!"; nginx=$!
start() {
    taskset -c 0 "$cweb" serve --shards 1 --isolation "$2" --port "$3" --data-dir "$tmp/$1" -s 2>"$tmp/$1/log" & pids="$pids $!"
    started=$!
    for _ in $(seq 100); do grep -q listening "$tmp/$1/log" && break; sleep 0.1; done
    curl -sSf -o /dev/null --data-binary @"$tmp/site.c" "http://127.0.0.1:$3/mgnt"
}
start apart process 18091; apart=$started
start here none 18092; here=$started
for url in 18090 18091/m 18091/h 18092/m; do
    curl -sSf -o /dev/null "http://127.0.0.1:$url/64k.bin"
done

# User and system time of a process and of those that it has started.
ticks() {
    for pid in "$1" $(cat /proc/"$1"/task/*/children 2>/dev/null); do
        awk '{print $14 + $15}' "/proc/$pid/stat"
    done | awk '{ sum += $1 } END { print sum }'
}

# measure NAME PID URL
measure() {
    before=$(ticks "$2")
    taskset -c 1 wrk -t1 -c64 -d"$seconds" "$3" >"$tmp/wrk"
    after=$(ticks "$2")
    awk -v name="$1" -v ticks=$((after - before)) -v hz="$(getconf CLK_TCK)" '
        / requests in / { n = $1 } /Requests\/sec/ { rate = $2 } /Socket errors|Non-2xx/ { errors = $0 }
        END { printf "%s %.0f %.0f %s\n", name, n / (ticks / hz), rate, errors }' "$tmp/wrk" >>"$tmp/results"
}

for _ in $(seq "$rounds"); do
    for size in 64k 1m; do
        measure "nginx-$size" "$nginx" "http://127.0.0.1:18090/$size.bin"
        measure "mount-apart-$size" "$apart" "http://127.0.0.1:18091/m/$size.bin"
        measure "handler-apart-$size" "$apart" "http://127.0.0.1:18091/h/$size.bin"
        measure "mount-here-$size" "$here" "http://127.0.0.1:18092/m/$size.bin"
    done
done
python3 - "$tmp/results" <<'P'
import statistics, sys
rows = {}
for line in open(sys.argv[1]):
    name, per_cpu, rate, *errors = line.split(maxsplit=3)
    rows.setdefault(name, []).append((float(per_cpu), float(rate), errors))
print("| | requests a CPU second | requests/s | / nginx |\n| --- | --- | --- | --- |")
for name, runs in rows.items():
    per_cpu = statistics.median(r[0] for r in runs)
    base = statistics.median(r[0] for r in rows["nginx-" + name.rsplit("-", 1)[1]])
    print(f"| {name} | {per_cpu:.0f} | {statistics.median(r[1] for r in runs):.0f} | {per_cpu / base:.2f} |")
    for r in runs:
        if r[2]: print("errors:", r[2])
P
