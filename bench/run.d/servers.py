"""The servers that bench/run measures: how each is built and started."""
import glob, os, shutil, subprocess, sys
import urllib.error, urllib.request

from cases import MODULES
from server import NotListening, Server, is_free

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
# The modules of the group `domains`: in how many domains they are. The base is the first.
DOMAINS = {f"{MODULES} modules in one domain": 1, f"{MODULES} modules in 8 domains": 8, f"{MODULES} domains": MODULES}
# name: program and arguments of bench/floor
FLOORS = {
    "floor: raw io_uring, multishot": ("raw", "multishot"),
    "floor: monoio as our driver uses it": ("floor", "driver"),
    "floor: monoio with our ring flags": ("floor", "flags"),
    "floor: monoio": ("floor",),
}
# Of a question that is answered: measured only if --servers names them.
MORE_FLOORS = {
    "floor: raw io_uring": ("raw", "single"),
    "floor: raw io_uring, multishot, send(2)": ("raw", "multishot", "direct"),
    "floor: raw io_uring, multishot poll, recv(2), send(2)": ("raw", "poll", "direct"),
    "floor: small runtime, multishot poll, as our driver": ("tasks",),
}
# What servers can do, of the `needs` of cases. `floor`: a constant answer to each head; `plain`: also in the other cases without a body.
FLOOR = {"floor"}
EPOLL = {"floor", "plain"}
PLAIN = {"floor", "plain", "json"}
BODIES = PLAIN | {"body"}
# name: argument of bench/peers, what it can do
PEERS = {
    "actix-web": ("actix", BODIES),
    "axum": ("axum", BODIES),
    "hyper": ("hyper", BODIES | {"compute", "zstd"}),
    "may_minihttp": ("may", PLAIN),
    "ntex": ("ntex", PLAIN),
}
NGINX = """daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/nginx.err;
events {{ worker_connections 19000; }}
http {{ access_log off; keepalive_requests 1000000000; tcp_nodelay on; server_tokens off; default_type '';
client_body_temp_path {directory}/a; proxy_temp_path {directory}/b; fastcgi_temp_path {directory}/c; uwsgi_temp_path {directory}/d;
scgi_temp_path {directory}/e;
{tls}
server {{ listen 127.0.0.1:{port} {listen} backlog=4096; add_header Access-Control-Allow-Origin *;
location / {{ return 200 "Hello, World!"; }}
location ~ /json$ {{ default_type application/json; return 200 '{{"message":"Hello, World!","id":42}}'; }} }} }}
"""
NGINX_TLS = "ssl_protocols TLSv1.3; ssl_session_cache off; ssl_certificate {certificate}; ssl_certificate_key {key};"
CERTIFICATE = """[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = localhost
[extensions]
basicConstraints = critical, CA:FALSE
subjectAltName = DNS:localhost, IP:127.0.0.1
"""
GROUPS = ("plain", "beside", "tls", "domains")


class CanNot(Exception):
    """A server can't be had on this machine, or not be deployed to."""


def run(*command, **options):
    subprocess.run(command, check=True, **options)


def build(folder):
    run("cargo", "build", "--release", "--locked", "--quiet", "--manifest-path", os.path.join(ROOT, folder, "Cargo.toml"))


def shown(text):
    print(text, file=sys.stderr)


def deploy(server, source, query=""):
    request = urllib.request.Request(f"{server.url}/mgnt{query}", data=source, method="POST")
    try:
        urllib.request.urlopen(request, context=server.context()).read()
    except urllib.error.HTTPError as error:
        raise CanNot(f"{server.name} takes no module: {error.read().decode()}") from None


def part(name):
    with open(os.path.join(PARTS, name), "rb") as file:
        return file.read()


class Builds:
    """Programs, each built once. `binary`: the cweb to measure, or `None`."""

    def __init__(self, binary, directory):
        self.given, self.directory, self.done = binary, directory, set()

    def crate(self, folder, program):
        if folder not in self.done:
            build(folder)
            self.done.add(folder)
        return os.path.join(ROOT, folder, "target/release", program)

    def cweb(self):
        return self.given or self.crate(".", "cweb")

    def epoll(self):
        epoll = os.path.join(self.directory, "epoll")
        if not os.path.exists(epoll):
            run("cc", "-O2", "-o", epoll, os.path.join(PARTS, "epoll.c"))
        return epoll

    def uwebsockets(self):
        sources = os.environ["UWEBSOCKETS"]
        program, objects = os.path.join(self.directory, "uwebsockets"), os.path.join(self.directory, "uws")
        os.mkdir(objects)
        sockets = os.path.join(sources, "uSockets", "src")
        files = glob.glob(f"{sockets}/*.c") + glob.glob(f"{sockets}/eventing/*.c")
        run("gcc", "-O3", "-DLIBUS_NO_SSL", f"-I{sockets}", "-c", *files, cwd=objects)
        run("g++", "-std=c++20", "-O3", "-DLIBUS_NO_SSL", "-DUWS_NO_ZLIB", "-DUWS_HTTPRESPONSE_NO_WRITEMARK", f"-I{sources}/src",
            f"-I{sockets}", os.path.join(PARTS, "uws.cpp"), *glob.glob(f"{objects}/*.o"), "-o", program)
        return program

    def certificate(self):
        """The files of a certificate for localhost and of its key."""
        if not shutil.which("openssl"):
            raise CanNot("TLS is left out: openssl is not installed")
        made, key, settings = (os.path.join(self.directory, name) for name in ("cert.pem", "key.pem", "cert.conf"))
        if not os.path.exists(made):
            with open(settings, "w") as file:
                file.write(CERTIFICATE)
            run("openssl", "req", "-x509", "-config", settings, "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-days", "2", "-out", made, "-keyout", key, stderr=subprocess.DEVNULL)
        return made, key

    def numbered(self):
        """One shared object for each of the modules of `domains.c`."""
        flags = subprocess.run([self.cweb(), "sdk", "--cflags"], check=True, capture_output=True, text=True).stdout.split()
        made = os.path.join(self.directory, "domains.so")
        run("cc", "-shared", "-fPIC", "-O2", *flags, "-o", made, os.path.join(PARTS, "domains.c"), "-ljansson")
        with open(made, "rb") as file:
            made = file.read()
        return [made.replace(b"bench_NN", b"bench_%02d" % number).replace(b"/mNN/", b"/m%02d/" % number) for number in range(MODULES)]


def candidates(group, more_floors):
    """The names of the servers of a group, and what each can do."""
    # A handler that computes is no inline handler.
    cweb = {name: BODIES | ({"compute", "zstd"} if kind == "ordinary" else set()) for name, (_, kind) in CWEB.items()}
    floors = dict.fromkeys({**FLOORS, **(MORE_FLOORS if more_floors else {})}, FLOOR)
    others = {"nginx": PLAIN, **({"uWebSockets": PLAIN} if os.environ.get("UWEBSOCKETS") else {})}
    return {
        "plain": {**cweb, "floor: C, epoll": EPOLL, **floors, **{name: able for name, (_, able) in PEERS.items()}, **others},
        "beside": dict.fromkeys([*CWEB, "hyper"], {"beside"}),
        "tls": dict.fromkeys([*CWEB, "nginx"], {"tls"}),
        "domains": dict.fromkeys(DOMAINS, {"domains"}),
    }[group]


class Set:
    """The servers of one group of cases. `wanted`: parts of names, or `None`; `needs`: of the group's cases that are measured."""

    def __init__(self, group, wanted, needs, builds, first_port):
        self.group, self.needs, self.builds = group, needs, builds
        self.directory = os.path.join(builds.directory, group)
        self.running, self.failures, self.port = [], [], first_port
        # Those that are to be started: name, what it can do.
        self.able = {name: able for name, able in candidates(group, bool(wanted)).items()
                     if able & needs and (not wanted or any(part in name for part in wanted))}

    def add(self, name, command, **options):
        self.take_port()
        command = [str(self.port) if part == "PORT" else part for part in command]
        log = os.path.join(self.directory, f"{self.port}.log")
        self.running.append(Server(name, command, self.port, log, self.able[name], **options))
        self.port += 1
        return self.running[-1]

    def take_port(self):
        while not is_free(self.port):
            self.port += 1

    def start(self):
        """Builds and starts what is wanted and can be had, and says what can't."""
        os.makedirs(self.directory, exist_ok=True)
        for start in {"plain": (self.cweb, self.floors, self.peers, self.nginx, self.uwebsockets), "beside": (self.cweb, self.hyper_beside),
                      "tls": (self.cweb, self.nginx), "domains": (self.domains,)}[self.group]:
            try:
                start()
            except (CanNot, subprocess.CalledProcessError) as error:
                shown(str(error))
        for server in [server for server in self.running if server.process is not None]:
            try:
                server.wait()
                self.deploy(server)
            except (NotListening, CanNot, OSError) as error:
                self.failures.append(str(error))
                server.stop()
                self.running = [other for other in self.running if getattr(other, "shares", other) is not server]

    def deploy(self, server):
        if server.name in CWEB:
            deploy(server, part("bench.c"))
            self.zstd(server)
        elif server.name in DOMAINS:
            for number, module in enumerate(self.modules):
                deploy(server, module, "" if DOMAINS[server.name] == 1 else f"?domain=d{number % DOMAINS[server.name]}")

    def zstd(self, server):
        if "zstd" not in self.needs:
            return
        try:
            deploy(server, part("zstd.c"))
        except CanNot as error:
            shown(f"zstd is left out: {error}")
            for other in self.running:
                other.abilities = other.abilities - {"zstd"}

    def serve(self, isolation, *options):
        # All connections of the load are of one peer. The compiler may have to share its core.
        self.take_port()
        data = os.path.join(self.directory, f"{isolation}-{self.port}")
        return [self.builds.cweb(), "serve", "--shards", "1", "--isolation", isolation, "--port", "PORT", "--data-dir", data, "-s",
                "--connections-per-peer-max", "0", "--compile-timeout-ms", "120000", *options]

    def cweb(self):
        options, certificate = (), None
        if self.group == "tls":
            certificate, key = self.builds.certificate()
            options = ("--tls-cert", certificate, "--tls-key", key)
        started = {}
        for name, (isolation, kind) in CWEB.items():
            if name not in self.able:
                continue
            if isolation in started:
                self.running.append(started[isolation].another(name, kind, self.able[name]))
                continue
            # The shard pins itself to core 0; where a slow route runs beside, the other threads have all cores.
            started[isolation] = self.add(name, self.serve(isolation, *options), kind=kind, certificate=certificate,
                                          cores=None if self.group == "beside" else "0")

    def domains(self):
        if self.able:
            self.modules = self.builds.numbered()
        for name in self.able:
            self.add(name, self.serve("process", "--allow-binary", "--domains-max", str(MODULES + 16)))

    def floors(self):
        if "floor: C, epoll" in self.able:
            self.add("floor: C, epoll", [self.builds.epoll(), "PORT"])
        for name, (program, *arguments) in {**FLOORS, **MORE_FLOORS}.items():
            if name in self.able:
                self.add(name, [self.builds.crate("bench/floor", program), "PORT", *arguments])

    def peers(self):
        for name, (argument, _) in PEERS.items():
            if name in self.able:
                self.add(name, [self.builds.crate("bench/peers", "peers"), "PORT", argument])

    def hyper_beside(self):
        if "hyper" in self.able:
            self.add("hyper", [self.builds.crate("bench/peers", "peers"), "PORT", "hyper"], env={"BENCH_ALL_CORES": "1"})

    def nginx(self):
        if "nginx" not in self.able:
            return
        nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
        if not nginx:
            raise CanNot("nginx is left out: it is not installed (apt-get install nginx-light)")
        tls, certificate = "", None
        if self.group == "tls":
            certificate, key = self.builds.certificate()
            tls = NGINX_TLS.format(certificate=certificate, key=key)
        self.take_port()
        conf = os.path.join(self.directory, "nginx.conf")
        with open(conf, "w") as file:
            file.write(NGINX.format(directory=self.directory, port=self.port, tls=tls, listen="ssl" if tls else ""))
        self.add("nginx", [nginx, "-p", self.directory, "-c", conf], certificate=certificate)

    def uwebsockets(self):
        if "uWebSockets" in self.able:
            self.add("uWebSockets", [self.builds.uwebsockets(), "PORT"])
        elif self.needs & PLAIN and "UWEBSOCKETS" not in os.environ:
            shown("uWebSockets is left out: UWEBSOCKETS names no checkout of it with uSockets in it")

    def stop(self):
        for server in self.running:
            server.stop()
