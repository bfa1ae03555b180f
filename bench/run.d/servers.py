"""The servers that bench/run measures: how each is built and started."""
import glob, os, shutil, subprocess, sys
import urllib.error, urllib.request

from server import Server

PARTS = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(PARTS))
FIRST_PORT = 18400

# name: isolation, kind of the handler
CWEB = {
    "cweb none, inline": ("none", "inline"),
    "cweb none, ordinary": ("none", "ordinary"),
    "cweb isolated, inline": ("process", "inline"),
    "cweb isolated, ordinary": ("process", "ordinary"),
}
# name: program and arguments of bench/floor
FLOORS = {
    "floor: raw io_uring, multishot": ("raw", "multishot"),
    "floor: raw io_uring": ("raw", "single"),
    "floor: raw io_uring, multishot, send(2)": ("raw", "multishot", "direct"),
    "floor: raw io_uring, multishot poll, recv(2), send(2)": ("raw", "poll", "direct"),
    "floor: monoio as our driver uses it": ("floor", "driver"),
    "floor: small runtime, multishot poll, as our driver": ("tasks",),
    "floor: monoio with our ring flags": ("floor", "flags"),
    "floor: monoio": ("floor",),
}
# name: argument of bench/peers, whether it takes bodies, whether it computes
PEERS = {
    "actix-web": ("actix", True, False),
    "axum": ("axum", True, False),
    "hyper": ("hyper", True, True),
    "may_minihttp": ("may", False, False),
    "ntex": ("ntex", False, False),
}
NGINX = """daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/nginx.err;
events {{ worker_connections 20000; }}
http {{ access_log off; keepalive_requests 1000000000; tcp_nodelay on; server_tokens off; default_type '';
server {{ listen 127.0.0.1:{port}; location / {{ add_header Access-Control-Allow-Origin *; return 200 "Hello, World!"; }} }} }}
"""


def run(*command, **options):
    subprocess.run(command, check=True, **options)


def build(folder):
    run("cargo", "build", "--release", "--locked", "--quiet", "--manifest-path", os.path.join(ROOT, folder, "Cargo.toml"))


def without(cases, *parts):
    return {case for case in cases if not any(part in case for part in parts)}


class Set:
    """Servers that run. `wanted`: parts of names, or `None`; `directory`: for their files; `cases`: the names of all cases."""

    def __init__(self, wanted, directory, cases):
        self.wanted, self.directory, self.cases = wanted, directory, cases
        self.running = []
        self.port = FIRST_PORT

    def wants(self, name):
        return not self.wanted or any(part in name for part in self.wanted)

    def add(self, name, command, **options):
        command = [str(self.port) if part == "PORT" else part for part in command]
        log = os.path.join(self.directory, f"{self.port}.log")
        self.running.append(Server(name, command, self.port, log, **options))
        self.port += 1
        return self.running[-1]

    def start(self, binary):
        """Builds and starts what is wanted and can be had, and says what can't. Returns the bytes of each server's answer."""
        build("bench/floor")  # the load generator is there too
        self.start_cweb(binary)
        self.start_floors()
        self.start_peers()
        self.start_nginx()
        self.start_uwebsockets()
        if not self.running:
            sys.exit("no server has such a name")
        for server in self.running:
            server.wait()
        self.deploy()
        return {server.name: server.answer_bytes() for server in self.running}

    def start_cweb(self, binary):
        started = {}
        for name, (isolation, kind) in CWEB.items():
            if not self.wants(name):
                continue
            if not binary:
                build(".")
                binary = os.path.join(ROOT, "target", "release", "cweb")
            if isolation in started:
                self.running.append(started[isolation].another(name, kind))
                continue
            data = os.path.join(self.directory, isolation)
            started[isolation] = self.add(
                name, [binary, "serve", "--shards", "1", "--isolation", isolation, "--port", "PORT", "--data-dir", data, "-s"],
                kind=kind)

    def deploy(self):
        with open(os.path.join(PARTS, "bench.c"), "rb") as file:
            source = file.read()
        for server in self.running:
            if server.name not in CWEB or server.process is None:
                continue
            request = urllib.request.Request(f"http://127.0.0.1:{server.port}/mgnt", data=source, method="POST")
            try:
                urllib.request.urlopen(request).read()
            except urllib.error.HTTPError as error:
                sys.exit(f"{server.name} takes no module: {error.read().decode()}")

    def start_floors(self):
        plaintext = without(self.cases, "POST", "SHA")
        if self.wants("floor: C, epoll"):
            epoll = os.path.join(self.directory, "epoll")
            run("cc", "-O2", "-o", epoll, os.path.join(PARTS, "epoll.c"))
            self.add("floor: C, epoll", [epoll, "PORT"], cases=plaintext)
        for name, (program, *arguments) in FLOORS.items():
            if not self.wants(name):
                continue
            self.add(name, [os.path.join(ROOT, "bench/floor/target/release", program), "PORT", *arguments], cases=plaintext)

    def start_peers(self):
        peers = {name: peer for name, peer in PEERS.items() if self.wants(name)}
        if peers:
            build("bench/peers")
        for name, (argument, takes_bodies, computes) in peers.items():
            cases = without(self.cases, *([] if takes_bodies else ["POST"]), *([] if computes else ["SHA"]))
            self.add(name, [os.path.join(ROOT, "bench/peers/target/release/peers"), "PORT", argument], cases=cases)

    def start_nginx(self):
        if not self.wants("nginx"):
            return
        nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
        if not nginx:
            print("nginx is left out: it is not installed (apt-get install nginx-light)", file=sys.stderr)
            return
        conf = os.path.join(self.directory, "nginx.conf")
        with open(conf, "w") as file:
            file.write(NGINX.format(directory=self.directory, port=self.port))
        self.add("nginx", [nginx, "-p", self.directory, "-c", conf], cases=without(self.cases, "POST", "SHA"))

    def start_uwebsockets(self):
        sources = os.environ.get("UWEBSOCKETS")
        if not self.wants("uWebSockets"):
            return
        if not sources:
            print("uWebSockets is left out: UWEBSOCKETS names no checkout of it with uSockets in it", file=sys.stderr)
            return
        sockets = os.path.join(sources, "uSockets", "src")
        files = glob.glob(f"{sockets}/*.c") + glob.glob(f"{sockets}/eventing/*.c")
        run("gcc", "-O3", "-DLIBUS_NO_SSL", f"-I{sockets}", "-c", *files, cwd=self.directory)
        program = os.path.join(self.directory, "uwebsockets")
        run("g++", "-std=c++20", "-O3", "-DLIBUS_NO_SSL", "-DUWS_NO_ZLIB", "-DUWS_HTTPRESPONSE_NO_WRITEMARK", f"-I{sources}/src", f"-I{sockets}",
            os.path.join(PARTS, "uws.cpp"), *glob.glob(f"{self.directory}/*.o"), "-o", program)
        self.add("uWebSockets", [program, "PORT"], cases=without(self.cases, "POST", "SHA"))
