#!/usr/bin/env bash
# Hot swaps under load: one module is swapped between two versions while wrk loads it, a client checks the version of every
# answer, and a WebSocket asks after each swap. Then what a deployment takes, beside what the compiler takes by itself.
#   bench/swap.sh [SWAPS]     prints a Markdown table; fails if an answer was lost, wrong or of a version that was gone; CWEB names another binary
set -eu
cd "$(dirname "$0")/.."
swaps=${1:-1000}
command -v wrk >/dev/null || { echo "wrk is missing: apt-get install wrk" >&2; exit 1; }
binary=${CWEB:-target/release/cweb}
[ -n "${CWEB:-}" ] || cargo build --release --quiet
tmp=$(mktemp -d)
pids=
trap 'kill $pids 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$tmp"' EXIT
start() {
    mkdir -p "$tmp/$1"
    taskset -c 0 "$binary" serve --shards 1 --isolation "$1" --port "$2" --data-dir "$tmp/$1" -s 2>"$tmp/$1.log" </dev/null &
    pids="$pids $!"
    for _ in $(seq 100); do grep -q listening "$tmp/$1.log" && break; sleep 0.1; done
}
start none 18091; none=${pids##* }
start process 18092; process=${pids##* }
taskset -c 1 python3 - "$swaps" "$tmp/object.so" "none:18091:$none" "process:18092:$process" <<'P'
import base64, glob, http.client, os, re, signal, socket, statistics, struct, subprocess, sys, threading, time

SOURCE = """
#include <cweb.h>
static int h(struct cweb_context *c, http_request_t *q, http_response_t *r) {
  (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, "%s"); return 0; }
static void m(struct cweb_context *c, websocket_t *w, const char *t, size_t n) { (void)c; (void)t; (void)n; w->send(w, "%s", 1); }
export module_t config = {.name = "swapped", .author = "bench", .routes = {{"/v", "GET", h, CWEB_INLINE}}, .size = 1,
  .websockets = {{"/ws", NULL, m, NULL}}, .ws_size = 1};
"""

def rss(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{pid}/status").read())[1])

def children(pid):
    tasks = glob.glob(f"/proc/{pid}/task/*/children")
    return [int(child) for task in tasks for child in open(task).read().split()]

class Http:
    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    def ask(self, method, path, body=None):
        self.connection.request(method, path, body)
        answer = self.connection.getresponse()
        return answer.status, answer.read().decode()

class WebSocket:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(f"GET /ws HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
        self.file = self.socket.makefile("rb")
        assert b" 101 " in self.file.readline()
        while self.file.readline() != b"\r\n":
            pass
    def ask(self):
        self.socket.sendall(b"\x81\x81\0\0\0\0?")
        kind, length = struct.unpack("BB", self.file.read(2))
        assert kind == 0x81, f"the WebSocket was closed: {kind:#x}"
        return self.file.read(length).decode()

def p99(text):
    value, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", text).groups()
    return float(value) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]

def wrk(port, seconds):
    return subprocess.Popen(["taskset", "-c", "1", "wrk", "-t1", "-c32", f"-d{seconds}", "--latency", f"http://127.0.0.1:{port}/v"],
                            stdout=subprocess.PIPE, text=True)

def run(name, port, pid, swaps):
    control, versions = Http(port), [SOURCE % (v, v) for v in "AB"]
    def swap(n):
        status, text = control.ask("POST", "/mgnt", versions[n % 2])
        assert status == 200, text
    for n in range(200):
        swap(n)
    load = wrk(port, 5)
    calm = p99(load.communicate()[0])
    begun, done, stop, checked, wrong = [199], [199], [False], [0], []
    def check():
        client = Http(port)
        while not stop[0]:
            oldest = done[0]
            status, text = client.ask("GET", "/v")
            newest = begun[0]
            checked[0] += 1
            if status != 200 or not any("AB"[n % 2] == text for n in range(oldest, newest + 1)):
                wrong.append((status, text))
            time.sleep(0.001)
    checker = threading.Thread(target=check)
    checker.start()
    web_socket, load, before, start = WebSocket(port), wrk(port, 3600), rss(pid), time.time()
    for n in range(200, 200 + swaps):
        begun[0] = n
        swap(n)
        done[0] = n
        assert web_socket.ask() == "AB"[n % 2]
    took = time.time() - start
    load.send_signal(signal.SIGINT)
    text = load.communicate()[0]
    stop[0] = True
    checker.join()
    time.sleep(2)
    growth, domain = rss(pid) - before, sum(map(rss, children(pid)))
    failed = re.findall(r"(?:Non-2xx or 3xx responses|Socket errors).*", text)
    requests = int(re.search(r"(\d+) requests in", text)[1])
    print(f"| {name} | {swaps} in {took:.0f} s | {requests} + {checked[0]} checked | {len(failed) + len(wrong)} | {calm:.0f} | {p99(text):.0f} | {growth} | {domain} |", flush=True)
    return not failed and not wrong

def deployments(name, port):
    """Time from POST to the first answer of a new source, of one that was compiled before, and of the compiler by itself."""
    control, first, cached, alone = Http(port), [], [], []
    for n in range(20):
        source = SOURCE.replace('"/v"', '"/first"').replace('"/ws"', '"/wsfirst"').replace('"swapped"', '"first"') % (f"{n} {time.time()}", "x")
        start = time.time()
        assert control.ask("POST", "/mgnt", source)[0] == 200
        assert control.ask("GET", "/first")[1].startswith(f"{n} ")
        first.append(time.time() - start)
        start = time.time()
        assert control.ask("POST", "/mgnt", source)[0] == 200 and control.ask("GET", "/first")[0] == 200
        cached.append(time.time() - start)
        start = time.time()
        subprocess.run(["cc", "-shared", *FLAGS, "-Iinclude", "-x", "c", "-", "-o", OBJECT, *LINK_FLAGS], input=source, text=True, check=True)
        alone.append(time.time() - start)
    ms = lambda list: f"{statistics.median(list) * 1e3:.1f}"
    print(f"| {name} | {ms(first)} | {ms(alone)} | {statistics.median(first) * 1e3 - statistics.median(alone) * 1e3:+.1f} | {ms(cached)} |", flush=True)

def flags(name):
    """What the server gives the compiler."""
    return re.findall(r'"(-[^"]+)"', re.search(rf"const {name}[^=]*=\s*&?\[(.*?)\]", open("src/module/compile.rs").read(), re.S)[1])

FLAGS, LINK_FLAGS = flags("FLAGS"), flags("LINK_FLAGS")
OBJECT, servers = sys.argv[2], [argument.split(":") for argument in sys.argv[3:]]
print("| modules | swaps | requests | failed or of a wrong version | p99 before, µs | p99 during swaps | server's growth, KiB | RSS of its children now, KiB |")
print("| --- | --- | --- | --- | --- | --- | --- | --- |")
fine = [run(name, int(port), int(pid), int(sys.argv[1])) for name, port, pid in servers]
print("\n| modules | new source to its first answer, ms | cc alone | difference | source unchanged |")
print("| --- | --- | --- | --- | --- |")
for name, port, _ in servers:
    deployments(name, int(port))
sys.exit(0 if all(fine) else 1)
P
