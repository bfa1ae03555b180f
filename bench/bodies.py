#!/usr/bin/env python3
"""The client of bodies.sh: cost of a byte up and down, another route meanwhile, and WebSocket messages.

bodies.py PORT [ROUNDS] prints lines of "NAME VALUE": milliseconds, or nanoseconds a byte."""
import base64, multiprocessing, os, socket, statistics, struct, sys, threading, time

port, rounds = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
MIB = 1 << 20


def connect():
    conn = socket.create_connection(("127.0.0.1", port))
    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    conn.settimeout(120)
    return conn


def answer(conn):
    """Status and bytes of the body."""
    head = b""
    while b"\r\n\r\n" not in head:
        part = conn.recv(65536)
        if not part:
            return 0, 0
        head += part
    head, rest = head.split(b"\r\n\r\n", 1)
    length = int(next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")).split(b":")[1])
    count, room = len(rest), bytearray(1 << 18)
    while count < length:
        got = conn.recv_into(room)
        if not got:
            break
        count += got
    return int(head.split()[1]), count


def upload(conn, body):
    conn.sendall(b"POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
    conn.sendall(body)
    return answer(conn)[0]


def download(conn, bytes_):
    conn.sendall(b"GET /down?bytes=%d HTTP/1.1\r\nHost: x\r\n\r\n" % bytes_)
    return answer(conn)


class Beside:
    """Asks for /quick again and again, with a pause, while its block runs: in a process of its own, so that it does not wait for the threads of this one."""

    def __enter__(self):
        self.result, result = multiprocessing.Pipe(False)
        over, self.over = multiprocessing.Pipe(False)
        self.process = multiprocessing.Process(target=self.run, args=(over, result))
        self.process.start()
        return self

    @staticmethod
    def run(over, result):
        conn, times = connect(), []
        while not over.poll(0.002):
            start = time.perf_counter()
            conn.sendall(b"GET /quick HTTP/1.1\r\nHost: x\r\n\r\n")
            answer(conn)
            times.append((time.perf_counter() - start) * 1e3)
        result.send(times)

    def __exit__(self, *_):
        self.over.send(True)
        self.times = self.result.recv()
        self.process.join()

    def show(self, name):
        times = sorted(self.times)
        print(f"{name}-p50 {times[len(times) // 2]:.2f}\n{name}-p99 {times[int(len(times) * 0.99)]:.2f}")


def websocket(path):
    conn = connect()
    key = base64.b64encode(os.urandom(16))
    conn.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n" % (path, key))
    head = b""
    while b"\r\n\r\n" not in head:
        head += conn.recv(1)
    return conn


def frame(bytes_):
    # A mask of zeros leaves the bytes as they are.
    return b"\x82\xff" + struct.pack(">Q", bytes_) + b"\0\0\0\0" + b"w" * bytes_


def one(conn):
    """Takes a frame of less than 126 bytes."""
    head = conn.recv(2, socket.MSG_WAITALL)
    return conn.recv(head[1] & 127, socket.MSG_WAITALL)


bodies = {mib: b"u" * (mib * MIB) for mib in (31, 33, 63)}
up, down, ws = ({} for _ in range(3))
with Beside() as beside:
    time.sleep(0.5)
beside.show("alone")
with Beside() as beside:
    for _ in range(rounds):
        for mib, body in bodies.items():
            conn = connect()
            start = time.perf_counter()
            assert upload(conn, body) == 200
            up.setdefault(mib, []).append(time.perf_counter() - start)
            start = time.perf_counter()
            assert download(conn, len(body)) == (200, len(body))
            down.setdefault(mib, []).append(time.perf_counter() - start)
            conn.close()
beside.show("beside-one")
for mib in bodies:
    print(f"up-{mib} {statistics.median(up[mib]) * 1e9 / mib / MIB:.2f}")
    print(f"down-{mib} {statistics.median(down[mib]) * 1e9 / mib / MIB:.2f}")
conn = websocket(b"/len")
for mib, count in ((1, 20), (15, 4)):
    message = frame(mib * MIB)
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(count):
            conn.sendall(message)
            assert one(conn) == b"%d" % (mib * MIB)
        ws.setdefault(mib, []).append((time.perf_counter() - start) / count * 1e3)
    print(f"ws-{mib} {statistics.median(ws[mib]):.2f}")
many = int(os.environ.get("UPLOADS", "64"))
statuses = []


def send():
    conn = connect()
    try:
        statuses.append(upload(conn, bodies[63]))
    except OSError:
        statuses.append(0)


start = time.perf_counter()
with Beside() as beside:
    threads = [threading.Thread(target=send) for _ in range(many)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
print(f"many-ms {(time.perf_counter() - start) * 1e3:.0f}\nmany-ok {statuses.count(200)}")
beside.show("beside-many")
