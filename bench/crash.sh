#!/usr/bin/env bash
# What the death of a domain costs: 20 modules in the domain `default`, one more in a domain of its own. In each round some requests
# are in flight when the domain dies, by SIGKILL or by SIGSEGV in a handler. Times are seen by clients, from the death on.
#   bench/crash.sh [ROUNDS]     prints a Markdown table of medians and of the longest; CWEB names another binary
set -eu
cd "$(dirname "$0")/.."
rounds=${1:-10}
binary=${CWEB:-target/release/cweb}
[ -n "${CWEB:-}" ] || cargo build --release --quiet
tmp=$(mktemp -d)
pids=
trap 'kill $pids 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$tmp"' EXIT
"$binary" serve --shards 2 --isolation process --crash-limit 0 --port 18091 --data-dir "$tmp" -s 2>"$tmp.log" </dev/null &
pids=$!
for _ in $(seq 100); do grep -q listening "$tmp.log" && break; sleep 0.1; done
rm "$tmp.log"
python3 - 18091 "$rounds" <<'P'
import http.client, os, signal, statistics, sys, threading, time

port, rounds = int(sys.argv[1]), int(sys.argv[2])
SOURCE = """
#include <cweb.h>
#include <unistd.h>
static int h(struct cweb_context *c, http_request_t *q, http_response_t *r) {
  (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, "%%d", (int)getpid()); return 0; }
static int slow(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; (void)r; sleep(20); return 0; }
static int crash(struct cweb_context *c, http_request_t *q, http_response_t *r) {
  (void)c; (void)q; (void)r; volatile int *volatile p = 0; return *p; }
export module_t config = {.name = "module%(n)d", .author = "bench", .size = 3,
  .routes = {{"/%(n)d", "GET", h, NONE}, {"/%(n)d/slow", "GET", slow, NONE}, {"/%(n)d/crash", "GET", crash, NONE}}};
"""

class Http:
    def __init__(self):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    def ask(self, method, path, body=None):
        self.connection.request(method, path, body)
        answer = self.connection.getresponse()
        return answer.status, answer.read().decode()

control = Http()
for n in range(21):
    path = "/mgnt?domain=other" if n == 20 else "/mgnt"
    status, text = control.ask("POST", path, SOURCE % {"n": n})
    assert status == 200, text
errors, asked, stop = [], [0], [False]
def well_behaved():
    client = Http()
    while not stop[0]:
        status, text = client.ask("GET", "/20")
        asked[0] += 1
        if status != 200:
            errors.append((status, text))
        time.sleep(0.0005)
neighbour = threading.Thread(target=well_behaved)
neighbour.start()

def death(how):
    """Seconds until what was in flight is answered, and until all modules answer again; the statuses of the former."""
    pid, answered, statuses = int(control.ask("GET", "/0")[1]), [], []
    def in_flight(n):
        client = Http()
        status, _ = client.ask("GET", f"/{n}/slow")
        answered.append(time.time())
        statuses.append(status)
    waiting = [threading.Thread(target=in_flight, args=(n % 20,)) for n in range(8)]
    for thread in waiting:
        thread.start()
    clients = [Http() for _ in range(20)]
    for n, client in enumerate(clients):
        assert client.ask("GET", f"/{n}")[0] == 200
    time.sleep(0.3)
    begun = time.time()
    if how == "SIGKILL":
        os.kill(pid, signal.SIGKILL)
        for thread in waiting:
            thread.join()
    else:
        assert control.ask("GET", "/0/crash")[0] in (500, 502)
        answered.append(time.time())
    first = max(answered) - begun
    for n, client in enumerate(clients):
        while True:
            status, text = client.ask("GET", f"/{n}")
            if status == 200 and int(text) != pid or how != "SIGKILL" and status == 200:
                break
    back = time.time() - begun
    for thread in waiting:
        thread.join()
    return first, back, statuses

print("| the domain dies by | what was in flight is answered after, ms | all 20 modules serve after, ms | statuses |\n| --- | --- | --- | --- |")
for how in "SIGKILL", "SIGSEGV":
    deaths = []
    for _ in range(rounds):
        deaths.append(death(how))
        time.sleep(0.5)
    column = lambda k: f"{statistics.median(d[k] for d in deaths) * 1e3:.1f} (longest {max(d[k] for d in deaths) * 1e3:.1f})"
    print(f"| {how} | {column(0)} | {column(1)} | {sorted({status for d in deaths for status in d[2]})} |", flush=True)
stop[0] = True
neighbour.join()
print(f"\nA module in another domain was asked {asked[0]} times meanwhile: {len(errors)} errors.")
sys.exit(1 if errors else 0)
P
