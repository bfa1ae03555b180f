#!/usr/bin/env bash
# From exec to the line "listening", with 20 modules deployed before; memory of an idle server; size of the binary.
#   bench/start.sh [ROUNDS]     prints a Markdown table of medians; CWEB names another binary
set -eu
cd "$(dirname "$0")/.."
rounds=${1:-11}
binary=${CWEB:-target/release/cweb}
[ -n "${CWEB:-}" ] || cargo build --release --quiet
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
strip -o "$tmp/cweb" "$binary"
python3 - "$tmp" "$rounds" <<'P'
import glob, os, re, signal, statistics, subprocess, sys, time, urllib.request

tmp, rounds = sys.argv[1], int(sys.argv[2])
SOURCE = """
#include <cweb.h>
static int h(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; strcpy(r->body, "%d"); return 0; }
export module_t config = {.name = "module%d", .author = "bench", .routes = {{"/%d", "GET", h, NONE}}, .size = 1};
"""

def start(isolation):
    begun = time.time()
    server = subprocess.Popen([f"{tmp}/cweb", "serve", "--port", "0", "--shards", "2", "--isolation", isolation, "--data-dir", f"{tmp}/{isolation}"],
                              stderr=subprocess.PIPE, text=True)
    for line in server.stderr:
        if line.startswith("listening on "):
            return server, line.split()[2], time.time() - begun
    sys.exit("the server did not start")

def resident(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{pid}/status").read())[1]) / 1024

def stop(server):
    server.send_signal(signal.SIGTERM)
    server.communicate()

print("| modules | start to listening with 20 modules, ms | idle server without modules, MiB | its domain, MiB |\n| --- | --- | --- | --- |")
for isolation in "none", "process":
    os.makedirs(f"{tmp}/{isolation}")
    server, url, _ = start(isolation)
    time.sleep(1)
    children = [int(pid) for task in glob.glob(f"/proc/{server.pid}/task/*/children") for pid in open(task).read().split()]
    idle, domain = resident(server.pid), sum(map(resident, children))
    for n in range(20):
        urllib.request.urlopen(f"{url}/mgnt", (SOURCE % (n, n, n)).encode()).read()
    stop(server)
    times = []
    for _ in range(rounds):
        server, url, took = start(isolation)
        times.append(took)
        assert urllib.request.urlopen(f"{url}/19").read() == b"19"
        stop(server)
    print(f"| {isolation} | {statistics.median(times) * 1e3:.1f} | {idle:.1f} | {domain:.1f} |")
print(f"\nThe binary has {os.path.getsize(f'{tmp}/cweb') / 2**20:.1f} MiB, stripped.")
P
