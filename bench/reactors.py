#!/usr/bin/env python3
"""CPU a request of all processes of the server on one binary with `--reactor monoio` and `--reactor native`.

    bench/reactors.py [ROUNDS [SECONDS]]      CWEB names another binary than target/release/cweb

Both servers run on core 0, `wrk` on core 1; the rounds are interleaved ABBA. Prints a Markdown table: medians of the CPU in µs a
request by schedstat, the median of the ratios of each round, and the smallest and the largest one."""

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.request

BINARY = os.environ.get("CWEB", "target/release/cweb")
REACTORS = ["monoio", "native"]
CASES = [("inline", 64, 1), ("inline", 512, 1), ("inline", 64, 16), ("ordinary", 64, 1), ("ordinary", 64, 16)]
MODULE = """#include <cweb.h>
static int plain(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)c, (void)q;
    return cweb_respond(r, HTTP_200_OK, "text/plain", "Hello, World!");
}
export module_t config = {.name = "bench", .author = "bench", .routes = {
    {"/inline", "GET", plain, CWEB_INLINE}, {"/ordinary", "GET", plain, NONE}}, .size = 2};
"""


class Server:
    def __init__(self, reactor, isolation):
        self.directory = tempfile.mkdtemp()
        command = ["taskset", "-c", "0", BINARY, "serve", "--port", "0", "--shards", "1", "--silent", "--reactor", reactor]
        command += ["--isolation", isolation, "--data-dir", self.directory, "--connections-per-peer-max", "5000"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        found = (re.match(r"listening on (\S+)", line) for line in self.process.stderr)
        self.address = next(match for match in found if match)[1]
        urllib.request.urlopen(urllib.request.Request(f"{self.address}/mgnt", data=MODULE.encode())).read()

    def cpu_ns(self):
        """The time on a processor of all threads of the server and of its children."""
        pids, total = [self.process.pid], 0
        for pid in pids:
            for task in os.listdir(f"/proc/{pid}/task"):
                try:
                    with open(f"/proc/{pid}/task/{task}/schedstat") as file:
                        total += int(file.read().split()[0])
                    with open(f"/proc/{pid}/task/{task}/children") as file:
                        pids += [int(child) for child in file.read().split() if int(child) not in pids]
                except FileNotFoundError:
                    pass  # The thread has ended.
        return total

    def measure(self, route, connections, depth, seconds, pipeline):
        """CPU in µs a request."""
        before = self.cpu_ns()
        script = ["-s", pipeline] if depth > 1 else []
        command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", *script, f"{self.address}/{route}"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if "Non-2xx" in said or "Socket errors" in said:
            sys.exit(said)
        return (self.cpu_ns() - before) / int(re.search(r"(\d+) requests in", said)[1]) / 1000

    def stop(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    pipeline = tempfile.NamedTemporaryFile("w", suffix=".lua")
    pipeline.write("init = function() local all = {}; for i = 1, 16 do all[i] = wrk.format() end; batch = table.concat(all) end\n")
    pipeline.write("request = function() return batch end\n")
    pipeline.flush()
    print("| isolation | handler | connections | pipelined | monoio | native | native / monoio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for isolation in ["none", "process"]:
        servers = {reactor: Server(reactor, isolation) for reactor in REACTORS}
        found = {}
        for server in servers.values():
            server.measure("ordinary", 64, 1, seconds, pipeline.name)
        for turn in range(rounds):
            for case in CASES:
                for reactor in REACTORS[:: 1 if turn % 2 == 0 else -1]:
                    found.setdefault((case, reactor), []).append(servers[reactor].measure(*case, seconds, pipeline.name))
        for case in CASES:
            monoio, native = (found[case, reactor] for reactor in REACTORS)
            ratios = [b / a for a, b in zip(monoio, native)]
            figures = f"{statistics.median(monoio):.2f} | {statistics.median(native):.2f}"
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}, {max(ratios):.2f})"
            print(f"| {isolation} | {case[0]} | {case[1]} | {case[2]} | {figures} | {spread} |", flush=True)
        for server in servers.values():
            server.stop()


main()
