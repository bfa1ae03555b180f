"""A server that is measured: its process, and what its processes have used."""
import glob, os, re, signal, socket, ssl, subprocess, time

LISTENING_SECONDS = 20
ANSWER_SECONDS = 60


def is_free(port):
    """Whether no server listens there: a run of another checkout may be under way."""
    with socket.socket() as listener:
        # Connections that were closed a moment ago do not count.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class NotListening(Exception):
    """A server did not start."""


class Server:
    """A server on `cores`. `abilities`: what it can do, of the `needs` of cases; `certificate`: of a server with TLS."""

    def __init__(self, name, command, port, log, abilities, kind="inline", cores="0", certificate=None, env=None):
        self.name, self.port, self.kind, self.abilities, self.certificate = name, port, kind, abilities, certificate
        self.log = open(log, "wb")
        pinned = ["taskset", "-c", cores, *command] if cores else command
        self.process = subprocess.Popen(pinned, stdout=self.log, stderr=self.log, env={**os.environ, **(env or {})})

    def another(self, name, kind, abilities):
        """The same process under another name, with the route of another kind."""
        other = Server.__new__(Server)
        other.__dict__.update(self.__dict__, name=name, kind=kind, abilities=abilities, process=None, shares=self)
        return other

    def wait(self):
        for _ in range(LISTENING_SECONDS * 20):
            if self.process and self.process.poll() is not None:
                break
            try:
                return socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.05)
        raise NotListening(f"{self.name} does not listen: {open(self.log.name).read()[-1000:]}")

    @property
    def url(self):
        return f"{'https' if self.certificate else 'http'}://localhost:{self.port}"

    def context(self):
        return ssl.create_default_context(cafile=self.certificate) if self.certificate else None

    def connect(self):
        connection = socket.create_connection(("127.0.0.1", self.port), ANSWER_SECONDS)
        context = self.context()
        return context.wrap_socket(connection, server_hostname="localhost") if context else connection

    def ask(self, request):
        """The head and the body of an answer."""
        with self.connect() as connection:
            connection.sendall(request)
            received = b""
            while True:
                head, end, body = received.partition(b"\r\n\r\n")
                length = re.search(rb"\r\ncontent-length: *(\d+)", head.lower())
                if end and len(body) >= int(length.group(1) if length else 1 << 30):
                    return head, body
                more = connection.recv(65536)
                if not more:
                    raise OSError(f"the answer is {received[:500]!r}")
                received += more

    def check(self, case):
        """Raises an `OSError` if the answers of a case are not as they should be."""
        for variant in range(case.variants):
            head, body = self.ask(case.request(self.kind, self.port, variant))
            if not case.accepts(head, body):
                raise OSError(f"the answer is {head + body!r:.500}")

    def answer_bytes(self, case):
        """The length of the answer to a case, head and body."""
        head, body = self.ask(case.request(self.kind, self.port))
        return len(head) + 4 + len(body)

    def family(self):
        """The server's process and all its descendants."""
        found, todo = [], [getattr(self, "shares", self).process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            for path in glob.glob(f"/proc/{pid}/task/*/children"):
                try:
                    todo += [int(child) for child in open(path).read().split()]
                except OSError:
                    pass
        return found

    def usage(self):
        """What has been used until now: see `used`."""
        threads, ticks = {}, 0
        for pid in self.family():
            try:
                # Also of threads that have ended, and of children that have been waited for.
                ticks += sum(map(int, open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[11:15]))
            except (OSError, IndexError):
                pass
            for task in glob.glob(f"/proc/{pid}/task/*"):
                try:
                    nanoseconds = int(open(f"{task}/schedstat").read().split()[0])
                    switches = sum(int(n) for n in re.findall(r"ctxt_switches:\s+(\d+)", open(f"{task}/status").read()))
                    threads[task] = nanoseconds, switches
                except (OSError, IndexError):
                    pass
        return threads, ticks

    @staticmethod
    def used(before, after):
        """Nanoseconds of CPU, and switches of context, between two results of `usage`. If a thread has ended meanwhile, the CPU is that of
        the processes, which the kernel tells in ticks; the switches are those of the other threads."""
        (threads, ticks), (later, ticks_later) = before, after
        nanoseconds, switches = (
            sum(figures[of] - threads.get(task, (0, 0))[of] for task, figures in later.items()) for of in (0, 1))
        if threads.keys() - later.keys():
            nanoseconds = (ticks_later - ticks) * 1e9 / os.sysconf("SC_CLK_TCK")
        return nanoseconds, switches

    def memory(self):
        """KiB that all processes have resident, and their proportional share of it."""
        rss = pss = 0
        for pid in self.family():
            try:
                text = open(f"/proc/{pid}/smaps_rollup").read()
                rss += int(re.search(r"^Rss:\s+(\d+)", text, re.M).group(1))
                pss += int(re.search(r"^Pss:\s+(\d+)", text, re.M).group(1))
            except (OSError, AttributeError):
                pass
        return rss, pss

    def stop(self):
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
