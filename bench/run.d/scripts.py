"""The other scripts of bench/, which bench/run --all runs one by one."""
import os, signal, subprocess, sys, time

from servers import ROOT

# heading, command, about how many seconds it takes
SCRIPTS = (
    ("WebSockets: echo, a message to all, idle connections", ["websocket.sh", "3", "3"], 120),
    ("A room of 10,000 WebSockets", ["rooms.sh"], 90),
    ("Static files", ["files.sh", "3", "2"], 60),
    ("Streams of 2 GiB", ["streams.sh", "2"], 45),
    ("Plaintext beside an endless stream", ["beside.sh", "3", "3"], 45),
    ("Large bodies and WebSocket messages", ["bodies.sh", "1"], 60),
    ("Plaintext beside a route that computes for 50 ms", ["head_of_line.sh", "3", "2"], 80),
    ("Swaps under load", ["swap.sh", "100"], 45),
    ("Jobs", ["jobs.sh", "3", "2"], 120),
    ("Deployments", ["deploy.py"], 20),
    ("Start and idle memory", ["start.sh"], 20),
    ("Idle subscribers of events", ["subscribers.py", "{cweb}"], 30),
    ("The death of a domain", ["crash.sh", "5"], 20),
)
# A script that takes this many times as long as it should is ended. Compilations count too.
PATIENCE = 20


def chosen(options, parts):
    if options.all:
        return list(SCRIPTS)
    return [script for script in SCRIPTS if any(part in script[1][0] for part in parts(options.scripts) or ())]


def ran(command, seconds, environment):
    """What the script printed, and why it failed or `None`."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        out, said = process.communicate(timeout=seconds * PATIENCE)
    except subprocess.TimeoutExpired:
        # The script's own trap ends its servers.
        os.killpg(process.pid, signal.SIGTERM)
        out, said = process.communicate()
        return out, f"it was ended after {seconds * PATIENCE} s"
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        raise
    return out, None if process.returncode == 0 else f"status {process.returncode}: {said.strip()[-800:]}"


def run_all(scripts, binary):
    """Runs the scripts and prints what they print. Returns it by name."""
    results = {}
    for heading, (name, *arguments), seconds in scripts:
        begun = time.time()
        path = os.path.join(ROOT, "bench", name)
        command = [path, *(binary if argument == "{cweb}" else argument for argument in arguments)]
        out, failure = ran(command, seconds, {**os.environ, "CWEB": binary})
        shown = " ".join([f"bench/{name}", *("CWEB" if argument == "{cweb}" else argument for argument in arguments)])
        print(f"\n### {heading}\n\n`{shown}`\n\n{out.strip()}", flush=True)
        if failure:
            print(f"\n**{name} failed**: {failure}", flush=True)
        results[name] = {"heading": heading, "command": shown, "text": out, "failure": failure, "seconds": round(time.time() - begun, 1)}
        print(f"ran: {shown}", file=sys.stderr)
    return results
