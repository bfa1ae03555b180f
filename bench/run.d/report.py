"""What bench/run prints and writes: tables, a plot, the machine, and the comparison of two runs."""
import glob, os, platform, re, statistics, subprocess

from cases import CASES
from servers import CWEB, DOMAINS, ROOT


def read(path):
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return None


def machine():
    cpu = re.search(r"model name\s*:\s*(.*)", read("/proc/cpuinfo") or "")
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    weaknesses = {os.path.basename(path): read(path) for path in glob.glob("/sys/devices/system/cpu/vulnerabilities/*")}
    return {
        "kernel": platform.release(), "cpu": cpu.group(1) if cpu else platform.machine(), "cores": os.cpu_count(),
        "commit": commit, "congestion_control": read("/proc/sys/net/ipv4/tcp_congestion_control"),
        "load_average": os.getloadavg()[0],
        "mitigations": {name: state for name, state in sorted(weaknesses.items()) if state != "Not affected"},
    }


# Short names of the cases of the plot.
PLOTTED = ("64 connections", "pipelined", "JSON", "POST 64 KiB", "churn", "SHA-256")
# Columns of a table of ratios, so that it is not wider than a page.
COLUMNS = 6


def shown(name):
    return f"**{name}**" if name in CWEB or name in DOMAINS else name


def head(*columns):
    print(f"| {' | '.join(columns)} |")
    print("| " + " | ".join(["---"] * len(columns)) + " |")


def tables(report):
    about = report["machine"]
    print(f"{about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, {about['congestion_control']}, commit {about['commit']}, "
          f"load average {about['load_average']:.1f}; {report['rounds']} rounds of {report['seconds']} s.")
    print("Mitigations: " + "; ".join(f"{name}: {state}" for name, state in about["mitigations"].items()) + ".")
    ratios(report)
    beside(report["cases"])
    memory(report)
    for case, rows in report["cases"].items():
        print(f"\n### {case}\n")
        head("", "CPU µs a request", "±", f"CPU / {report['bases'][case]} (95 %)", "requests/s", "p50 µs", "p99 µs", "p99.9 µs", "errors")
        for name, row in sorted(rows.items(), key=lambda item: item[1]["ratio"][0]):
            ratio, lowest, highest = row["ratio"]
            print(f"| {shown(name)} | {row['cpu_us']:.2f} | {row['spread'] * 50:.0f} % | {ratio:.2f} ({lowest:.2f}, {highest:.2f}) | "
                  f"{row['rate']:,.0f} | {row['p50_us']:,.0f} | {row['p99_us']:,.0f} | {row['p999_us']:,.0f} | {row['errors']} |")


def ratios(report):
    """The CPU a request against the base: a column for each case, in tables that a page has room for."""
    columns = {}
    for name in report["cases"]:
        case = CASES[name]
        if case.group == "beside":
            continue  # The slow route's CPU is not of the requests that are counted. `beside` has the table.
        columns.setdefault((case.group, report["bases"][name]), []).append(case)
    for (_, base), cases in columns.items():
        count = -(-len(cases) // COLUMNS)
        width = -(-len(cases) // count)
        for at in range(0, len(cases), width):
            ratio_table(report["cases"], cases[at:at + width], base)


def ratio_table(results, cases, base):
    names = dict.fromkeys(name for case in cases for name in results[case.name])
    print("\nCPU a request, by that of " + shown(base) + ":\n")
    head("", *(case.short for case in cases))
    for name in names:
        rows = [results[case.name].get(name) for case in cases]
        print(f"| {shown(name)} | " + " | ".join(f"{row['ratio'][0]:.2f}" if row else "" for row in rows) + " |")
    print(f"\nIn µs, {base}: " + ", ".join(
        f"{case.short} {results[case.name][base]['cpu_us']:,.2f}" for case in cases if base in results[case.name]) + ".")


def beside(results):
    """The fast route's p99 alone and beside the slow one."""
    alone, together = ([case.name for case in CASES.values() if case.group == "beside" and case.beside == state] for state in (False, True))
    if alone[0] not in results or together[0] not in results:
        return
    print("\nA fast route beside four clients of a route that computes for 50 ms, two cores:\n")
    head("", "p99 alone, µs", "p99 beside, µs", "beside / alone")
    for name, row in results[together[0]].items():
        if name in results[alone[0]]:
            before = results[alone[0]][name]
            quotient = statistics.median(
                one["p99_us"] / max(other["p99_us"], 1) for one, other in zip(row["rounds"], before["rounds"]))
            print(f"| {shown(name)} | {before['p99_us']:,.0f} | {row['p99_us']:,.0f} | {quotient:.2f} |")


def memory(report):
    """Memory, switches of context and bytes of the answer, in the first case; and the memory after 10,000 connections."""
    cases = report["cases"]
    if not cases:
        return
    first = next(iter(cases))
    many = next((rows for name, rows in cases.items() if "10,000 connections" in name), {})
    print(f"\nAll processes of each server in: {first}; memory after the cases before:\n")
    head("", "bytes of an answer", "switches a request", "RSS MiB", "PSS MiB", "PSS MiB with 10,000 connections")
    for name, row in cases[first].items():
        later = f"{many[name]['pss_kib'] / 1024:.1f}" if name in many else ""
        print(f"| {shown(name)} | {report['answer_bytes'].get(name, '')} | {row['switches']:.3f} | {row['rss_kib'] / 1024:.1f} | "
              f"{row['pss_kib'] / 1024:.1f} | {later} |")


def plot(results, path):
    """Bars of the CPU a request, as an SVG."""
    lines, y = [], 20
    for case, rows in results.items():
        if CASES[case].short not in PLOTTED:
            continue
        lines.append(f'<text x="10" y="{y}" font-weight="bold">{case}: CPU µs a request</text>')
        most = max(row["cpu_us"] for row in rows.values())
        for name, row in sorted(rows.items(), key=lambda item: item[1]["cpu_us"]):
            y += 22
            width = max(1, row["cpu_us"] / most * 420)
            colour = "#2f6f4f" if name in CWEB else "#9aa5b1"
            lines.append(f'<text x="240" y="{y}" text-anchor="end">{name}</text>'
                         f'<rect x="250" y="{y - 12}" width="{width:.0f}" height="15" fill="{colour}"/>'
                         f'<text x="{258 + width:.0f}" y="{y}">{row["cpu_us"]:.2f}</text>')
        y += 40
    with open(path, "w") as file:
        file.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{y}" font-family="sans-serif" font-size="13">'
                   f'<rect width="100%" height="100%" fill="white"/>{"".join(lines)}</svg>\n')


def compare(old, new):
    """The ratios of two reports. The machine of both may differ, so the ratio to the base of each is compared too."""
    print(f"\n{old['machine']['commit']} → {new['machine']['commit']}; new / old\n")
    print("| case | server | CPU a request | CPU a request, both against their base | requests/s | p99 |")
    print("| --- " * 6 + "|")
    for case, rows in new["cases"].items():
        for name, row in rows.items():
            before = old["cases"].get(case, {}).get(name)
            if not before:
                continue
            values = [row[key] / before[key] if before[key] else float("nan") for key in ("cpu_us", "rate", "p99_us")]
            both = row.get("ratio", [float("nan")])[0] / before.get("ratio", [float("nan")])[0]
            if old.get("base") != new.get("base"):
                both = float("nan")
            print(f"| {case} | {name} | {values[0]:.3f} | {both:.3f} | {values[1]:.3f} | {values[2]:.3f} |")
