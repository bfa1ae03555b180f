#!/usr/bin/env python3
"""How long a deployment takes: a project of nine sources of which one has changed, beside the compiler and the linker alone
with the same flags; and the same project unchanged. Interleaved; medians and shortest times in ms.

bench/deploy.py [ROUNDS]     CWEB names another binary (default: target/release/cweb). Needs curl and gcc.
"""

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

UNITS = 8
COMPILE = "-O2 -g -fPIC -Wall -fstack-clash-protection -fstack-protector-strong -fno-omit-frame-pointer".split()
LINK = (
    "-Wl,-Bsymbolic -Wl,-z,defs -Wl,--wrap=exit -Wl,--as-needed -ljansson -lsqlite3 -lssl -lcrypto -lm -lpthread"
).split()


def unit(number, value):
    return (
        "#include <u.h>\n#include <stdio.h>\n#include <string.h>\n"
        f'int unit{number}(int x) {{ char b[64]; snprintf(b, sizeof b, "%d", x + {value}); return (int)strlen(b) + {value}; }}\n'
    )


def project(path):
    os.makedirs(path + "/src")
    os.makedirs(path + "/include")
    with open(path + "/include/u.h", "w") as file:
        file.write("".join(f"int unit{number}(int);\n" for number in range(UNITS)))
    for number in range(UNITS):
        with open(f"{path}/src/u{number}.c", "w") as file:
            file.write(unit(number, number))
    sum_ = "+".join(f"unit{number}(1)" for number in range(UNITS))
    with open(path + "/src/main.c", "w") as file:
        file.write(
            "#include <cweb.h>\n#include <u.h>\n"
            "static int h(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q; "
            f'return cweb_respond(r, HTTP_200_OK, "text/plain", "%d\\n", {sum_}); }}\n'
            'export module_t config = {.name = "project", .author = "bench", .routes = {{"/project", "GET", h, NONE}}, .size = 1};\n'
        )
    with open(path + "/module.toml", "w") as file:
        file.write('name = "project"\n')


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    binary = os.environ.get("CWEB", root + "/target/release/cweb")
    directory = tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    os.chmod(directory, 0o755)
    path, port = directory + "/project", 18150
    project(path)
    log = open(directory + "/log", "w")
    server = subprocess.Popen(
        [binary, "serve", "--listen", f"127.0.0.1:{port}", "--data-dir", directory + "/data"], stdout=log, stderr=log
    )
    try:
        for _ in range(200):
            if "listening on" in open(directory + "/log").read():
                break
            time.sleep(0.05)

        def deploy():
            names = [
                os.path.relpath(os.path.join(base, name), path) for base, _, files in os.walk(path) for name in sorted(files)
            ]
            forms = [text for name in names for text in ("-F", f"file=@{path}/{name};filename={name}")]
            command = ["curl", "-sS", "-o", directory + "/said", "-w", "%{http_code} %{time_total}", *forms]
            status, seconds = subprocess.check_output([*command, f"http://127.0.0.1:{port}/mgnt"]).decode().split()
            if status != "200":
                sys.exit(open(directory + "/said").read())
            return float(seconds) * 1000

        def bare(number):
            source, objects = f"{path}/src/u{number}.c", [f"{directory}/u{other}.o" for other in range(UNITS)]
            start = time.perf_counter()
            subprocess.check_call(["gcc", *COMPILE, "-I", path + "/include", "-c", "-o", objects[number], source])
            subprocess.check_call(["gcc", "-shared", "-o", directory + "/bare.so", *objects, *LINK])
            return (time.perf_counter() - start) * 1000

        deploy()
        for number in range(UNITS):
            command = ["gcc", *COMPILE, "-I", path + "/include", "-c", "-o", f"{directory}/u{number}.o"]
            subprocess.check_call([*command, f"{path}/src/u{number}.c"])
        times = {"one source changed": [], "compiler and linker alone": [], "nothing changed": []}
        for round_ in range(rounds):
            number = round_ % UNITS
            with open(f"{path}/src/u{number}.c", "w") as file:
                file.write(unit(number, 1000 + round_))
            times["one source changed"].append(deploy())
            times["compiler and linker alone"].append(bare(number))
            times["nothing changed"].append(deploy())
        print("| ms | median | shortest |\n| --- | --- | --- |")
        for name, all_ in times.items():
            print(f"| {name} | {statistics.median(all_):.1f} | {min(all_):.1f} |")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
        shutil.rmtree(directory)


main()
