"""How a case is measured."""
import math, os, re, statistics, subprocess, time

from cases import CASES, CLOSED, SLOW
from servers import ROOT

PROGRAMS = os.path.join(ROOT, "bench/floor/target/release")
# Until the slow requests are in flight.
BESIDE_SECONDS = 0.5


class Failed(Exception):
    """A server did not answer, or not as it should."""


def command(program, core, port, connections, seconds, depth, *options):
    return ["taskset", "-c", core, os.path.join(PROGRAMS, program), str(port), str(connections), str(seconds), str(depth), *options]


def loaded(server, case, seconds, rate=None):
    """The load's figures: requests, microseconds, errors, p50, p99, p99.9."""
    options = [*case.options, *(["--variants", str(case.variants)] if case.variants > 1 else [])]
    program = "tls" if server.certificate else "load"
    options += ["--certificate", server.certificate] if server.certificate else []
    options += ["--rate", f"{rate:.0f}"] if rate else []
    # The fast route's load shares core 0 with the shard where the slow route has core 1 for itself.
    core = "0" if case.group == "beside" else "1"
    load = subprocess.run(command(program, core, server.port, case.connections, seconds, case.depth, *options),
                          input=case.requests(server.kind, server.port), capture_output=True)
    found = re.search(rb"RESULT (.*)", load.stdout)
    figures = [int(figure) for figure in found.group(1).split()] if found else [0] * 6
    if figures[0] == 0:
        raise Failed(f"{server.name} answered nothing in {case.name}: {load.stderr.decode().strip()}")
    return figures


def measure(server, case, seconds, rate=None):
    beside = None
    if case.beside:
        beside = subprocess.Popen(command("load", "1", server.port, SLOW.connections, seconds + 1, 1), stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        beside.stdin.write(SLOW.request(server.kind, server.port))
        beside.stdin.close()
        time.sleep(BESIDE_SECONDS)
    before = server.usage()
    try:
        count, microseconds, errors, p50, p99, p999 = loaded(server, case, seconds, rate)
    finally:
        said = beside.stdout.read() if beside else b""
        if beside:
            beside.wait()
    nanoseconds, switches = server.used(before, server.usage())
    if beside:
        slow = re.search(rb"RESULT (.*)", said)
        errors += int(slow.group(1).split()[2]) if slow else 1
    rss, pss = server.memory()
    return {
        "cpu_us": max(nanoseconds, 1) / 1000 / count, "rate": count / microseconds * 1e6, "errors": errors,
        "p50_us": p50, "p99_us": p99, "p999_us": p999, "switches": switches / count,
        "rss_kib": rss, "pss_kib": pss,
    }


def closed_rate(server, seconds, results):
    """Requests a second of the closed loop: as measured before, or measured now."""
    rows = results.get(CLOSED, {}).get(server.name)
    if rows:
        return statistics.median(one["rate"] for one in rows)
    count, microseconds, *_ = loaded(server, CASES[CLOSED], seconds)
    return count / microseconds * 1e6


def rounds_of(servers, case, rounds, seconds, results, failures):
    """What was measured, by name of the server, one entry a round. Every second round has the opposite order. `results`: what
    other cases had, in the same form. A server that fails is left out and named in `failures`."""
    measured, rates = {}, {}
    for server in servers:
        try:
            server.check(case)
            rates[server.name] = closed_rate(server, seconds, results) * case.rate if case.rate and case.rate < 1 else case.rate
            measured[server.name] = []
        except (Failed, OSError) as error:
            failures.append(f"{case.name}: {server.name}: {error}")
    for number in range(rounds):
        for server in servers if number % 2 == 0 else reversed(servers):
            if server.name not in measured:
                continue
            try:
                measured[server.name].append(measure(server, case, seconds, rates[server.name]))
            except (Failed, OSError) as error:
                failures.append(f"{case.name}: {server.name}: {error}")
                del measured[server.name]
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
