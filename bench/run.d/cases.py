"""The cases of bench/run, and how one is measured."""
import math, os, re, statistics, subprocess, sys

from servers import CWEB, ROOT

BROWSER = (
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n"
    "Accept-Encoding: identity\r\nAccept-Language: en-GB,en;q=0.9\r\nCache-Control: max-age=0\r\nSec-Fetch-Dest: document\r\n"
    "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Site: none\r\nSec-Fetch-User: ?1\r\nUpgrade-Insecure-Requests: 1\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36\r\n"
    "Cookie: session=0123456789abcdef; theme=dark\r\n")


def get(fields=""):
    return "GET /{path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n" + fields + "\r\n"


def post(count):
    fields = "Content-Type: application/octet-stream\r\nContent-Length: " + str(count)
    return "POST /{path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n" + fields + "\r\n\r\n" + "x" * count


# name: path of the module's route, connections, a request, requests in one write
CASES = {
    "plaintext, 64 connections": ("{kind}", 64, get(), 1),
    "plaintext, 1 connection": ("{kind}", 1, get(), 1),
    "plaintext, 512 connections": ("{kind}", 512, get(), 1),
    "pipelined 16 deep, 64 connections": ("{kind}", 64, get(), 16),
    "13 header fields, 64 connections": ("{kind}", 64, get(BROWSER), 1),
    "POST of 1 KiB, 64 connections": ("{kind}", 64, post(1024), 1),
    "POST of 64 KiB, 64 connections": ("{kind}", 64, post(65536), 1),
    "SHA-256 of 1 MiB, 8 connections": ("sha256", 8, post(1048576), 1),
}
LOAD = os.path.join(ROOT, "bench/floor/target/release/load")


def measure(server, case, seconds):
    path, connections, request, depth = CASES[case]
    requests = request.format(path=path.format(kind=server.kind), port=server.port).encode() * depth
    before, switched = server.usage()
    load = subprocess.run(["taskset", "-c", "1", LOAD, str(server.port), str(connections), str(seconds), str(depth)],
                          input=requests, capture_output=True)
    after, switches = server.usage()
    found = re.search(rb"RESULT (.*)", load.stdout)
    count, microseconds, errors, p50, p99, p999 = map(int, found.group(1).split()) if found else [0] * 6
    if count == 0:
        sys.exit(f"{server.name} answered nothing in {case}: {load.stderr.decode()}")
    rss, pss = server.memory()
    return {
        "cpu_us": (after - before) / 1000 / count, "rate": count / microseconds * 1e6, "errors": errors,
        "p50_us": p50, "p99_us": p99, "p999_us": p999, "switches": (switches - switched) / count,
        "rss_kib": rss, "pss_kib": pss,
    }


def takes_part(server, case):
    # A handler that computes is no inline handler.
    return (server.cases is None or case in server.cases) and not ("SHA" in case and server.name in CWEB and server.kind == "inline")


def rounds_of(servers, case, rounds, seconds):
    """What was measured, by name of the server, one entry a round. Every second round has the opposite order."""
    servers = [server for server in servers if takes_part(server, case)]
    measured = {server.name: [] for server in servers}
    for number in range(rounds):
        for server in servers if number % 2 == 0 else reversed(servers):
            measured[server.name].append(measure(server, case, seconds))
    return measured


def interval(values):
    """The interval that has the median of the population with 95 % (by ranks), or all values when there are too few."""
    values, rank, below = sorted(values), 0, 0.0
    while (below := below + math.comb(len(values), rank) / 2 ** len(values)) <= 0.025:
        rank += 1
    rank = max(rank - 1, 0)
    return values[rank], values[-1 - rank]


def row(rounds, base):
    """The medians of a server's rounds, and its cost against that of `base` in the same round: median and interval."""
    medians = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    medians["errors"] = sum(one["errors"] for one in rounds)
    costs = [one["cpu_us"] for one in rounds]
    medians["spread"] = (max(costs) - min(costs)) / medians["cpu_us"]
    ratios = [one["cpu_us"] / other["cpu_us"] for one, other in zip(rounds, base)]
    medians["ratio"] = [statistics.median(ratios), *interval(ratios)]
    medians["rounds"] = rounds
    return medians
