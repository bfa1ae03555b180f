#!/usr/bin/env python3
"""Idle subscribers of server-sent events: what each costs, and a broadcast to all of them.

subscribers.py CWEB [COUNT]   starts an isolated server, opens COUNT (10000) streams and prints a Markdown table: resident memory of the server
and its processes for each idle subscriber, and the CPU of the module's process for a broadcast, with one encoded text for all."""
import os, resource, select, socket, subprocess, sys, tempfile, time

binary, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10000
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
SOURCE = r"""
#include <cweb.h>
#include <cweb_stream.h>
#include <pthread.h>
static cweb_stream_t *all[20000]; static size_t n; static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int subscribe(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)c; cweb_header(r, "content-type", "text/event-stream");
    cweb_stream_t *s = cweb_detach(q, r); if (s == NULL) return cweb_respond(r, (http_error_t)503, NULL, "full");
    pthread_mutex_lock(&lock); all[n++] = s; pthread_mutex_unlock(&lock); return 0;
}
static int tell(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)c, (void)q; static const char event[] = "data: to all of you\n\n";
    size_t told = cweb_stream_broadcast(all, n, event, sizeof event - 1, NULL);
    return cweb_respond(r, HTTP_200_OK, NULL, "%zu", told);
}
export module_t config = {.name = "subscribers", .author = "bench", .routes = {{"/on", "GET", subscribe, NONE}, {"/tell", "POST", tell, NONE}}, .size = 2};
"""


def family(pid):
    found = [pid]
    for one in found:
        for task in os.listdir(f"/proc/{one}/task"):
            found += [int(child) for child in open(f"/proc/{one}/task/{task}/children").read().split()]
    return found


def resident(pids):
    """Private and shared memory, each page once: the sum of what is proportional."""
    total = 0
    for pid in pids:
        total += sum(int(line.split()[1]) for line in open(f"/proc/{pid}/smaps_rollup") if line.startswith("Pss:"))
    return total


def cpu(pids):
    ticks = os.sysconf("SC_CLK_TCK")
    return sum(sum(map(int, open(f"/proc/{pid}/stat").read().rsplit(")")[1].split()[11:13])) for pid in pids) / ticks


with tempfile.TemporaryDirectory() as data:
    os.chmod(data, 0o755)
    args = [binary, "serve", "--port", "0", "--shards", "1", "--data-dir", data, "--stream-answers-max", str(count + 100), "--connections-max", str(count + 100)]
    # All clients are on one machine.
    env = dict(os.environ, CWEB_MAX_CONNECTIONS_PER_PEER="0")
    server = subprocess.Popen(args, stderr=subprocess.PIPE, text=True, env=env)
    port = next(int(line.rsplit(":", 1)[1]) for line in server.stderr if "listening on" in line)
    try:
        def ask(text, body=b""):
            conn = socket.create_connection(("127.0.0.1", port))
            conn.sendall(f"{text} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
            got = b""
            while part := conn.recv(65536):
                got += part
            return got
        deployed = ask("POST /mgnt", SOURCE.encode())
        assert b"200 OK" in deployed, deployed
        ask("POST /tell")
        time.sleep(3)
        pids = family(server.pid)
        before, streams = resident(pids), []
        for at in range(count):
            conn = socket.create_connection(("127.0.0.1", port))
            conn.sendall(b"GET /on HTTP/1.1\r\nHost: x\r\n\r\n")
            streams.append(conn)
        for conn in streams:
            assert b"200 OK" in conn.recv(4096)
        time.sleep(10)
        idle = (resident(pids) - before) / count
        begun = cpu(pids)
        told = ask("POST /tell").rsplit(b"\r\n", 1)[1].decode()
        for conn in streams:
            assert b"to all of you" in conn.recv(4096)
        print(f"| {count} subscribers, isolated | |\n| --- | --- |\n| resident, KiB each | {idle:.2f} |\n"
              f"| told by a broadcast | {told} |\n| CPU of a broadcast, server and module, us each | {(cpu(pids) - begun) / count * 1e6:.1f} |")
    finally:
        server.terminate()
        server.wait()
