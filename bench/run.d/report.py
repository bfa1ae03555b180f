"""What bench/run prints and writes: tables, a plot, the machine, and the comparison of two runs."""
import glob, os, platform, re, subprocess

from servers import CWEB, ROOT


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


def shown(name):
    return f"**{name}**" if name in CWEB else name


def tables(report):
    about = report["machine"]
    print(f"{about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, {about['congestion_control']}, commit {about['commit']}, "
          f"load average {about['load_average']:.1f}; {report['rounds']} rounds of {report['seconds']} s")
    print("mitigations: " + "; ".join(f"{name}: {state}" for name, state in about["mitigations"].items()))
    for case, rows in report["cases"].items():
        print(f"\n**{case}**\n")
        print(f"| | CPU µs a request | ± | CPU / {report['base']} (95 %) | requests/s | p50 µs | p99 µs | p99.9 µs | errors | "
              "switches a request | RSS MiB | PSS MiB | bytes of the answer |")
        print("| --- " * 13 + "|")
        for name, row in sorted(rows.items(), key=lambda item: item[1]["ratio"][0]):
            ratio, lowest, highest = row["ratio"]
            print(f"| {shown(name)} | {row['cpu_us']:.2f} | {row['spread'] * 50:.0f} % | {ratio:.2f} ({lowest:.2f}, {highest:.2f}) | "
                  f"{row['rate']:,.0f} | {row['p50_us']:.0f} | {row['p99_us']:.0f} | {row['p999_us']:.0f} | {row['errors']} | "
                  f"{row['switches']:.3f} | {row['rss_kib'] / 1024:.1f} | {row['pss_kib'] / 1024:.1f} | "
                  f"{report['answer_bytes'].get(name, '')} |")
    summary(report)


def summary(report):
    """One table of the ratios, a column for each case."""
    cases = report["cases"]
    names = list(dict.fromkeys(name for rows in cases.values() for name in rows))
    print(f"\n**CPU a request / {report['base']}**\n\n| | {' | '.join(cases)} |")
    print("| --- " * (len(cases) + 1) + "|")
    for name in names:
        cells = [f"{rows[name]['ratio'][0]:.2f}" if name in rows else "" for rows in cases.values()]
        print(f"| {shown(name)} | {' | '.join(cells)} |")


def plot(results, path):
    """Bars of the CPU a request, as an SVG."""
    lines, y = [], 20
    for case, rows in results.items():
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
