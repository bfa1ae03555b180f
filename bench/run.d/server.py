"""A server that is measured: its process, and what its processes have used."""
import glob, re, signal, socket, subprocess, sys, time

LISTENING_SECONDS = 10


class Server:
    """A server on core 0. `cases`: the names of the cases that it takes part in; `None`: all."""

    def __init__(self, name, command, port, log, kind="inline", cases=None):
        self.name, self.port, self.kind, self.cases = name, port, kind, cases
        self.log = open(log, "wb")
        self.process = subprocess.Popen(["taskset", "-c", "0", *command], stdout=self.log, stderr=self.log)

    def another(self, name, kind):
        """The same process under another name, with the route of another kind."""
        other = Server.__new__(Server)
        other.__dict__.update(self.__dict__, name=name, kind=kind, process=None, shares=self)
        return other

    def wait(self):
        for _ in range(LISTENING_SECONDS * 20):
            try:
                return socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                if self.process and self.process.poll() is not None:
                    break
                time.sleep(0.05)
        sys.exit(f"{self.name} does not listen: see {self.log.name}")

    def answer_bytes(self):
        """The length of the answer to `GET /inline`, head and body."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(b"GET /inline HTTP/1.1\r\nHost: bench\r\n\r\n")
            received = b""
            while not received.endswith(b"Hello, World!"):
                more = connection.recv(4096)
                if not more:
                    sys.exit(f"{self.name} answers {received!r}")
                received += more
        return len(received)

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
        """Nanoseconds of CPU, and switches of context, of all threads that live."""
        nanoseconds = switches = 0
        for pid in self.family():
            for task in glob.glob(f"/proc/{pid}/task/*"):
                try:
                    nanoseconds += int(open(f"{task}/schedstat").read().split()[0])
                    switches += sum(int(n) for n in re.findall(r"ctxt_switches:\s+(\d+)", open(f"{task}/status").read()))
                except (OSError, IndexError):
                    pass
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
