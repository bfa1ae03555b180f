"""The clients of bench/rooms.sh: MODE PID PORT DEFLATE SOCKETS MESSAGES. Prints one row, and ends with 1 if a message is lost."""
import http.client
import os
import select
import socket
import sys
import time
import zlib

PATIENCE_S = 30
BODY_BYTES = 4096
mode, pid, port, deflate, count, messages = sys.argv[1], *(int(sys.argv[2]), int(sys.argv[3])), sys.argv[4], *map(int, sys.argv[5:7])
ROOM = f"bench-{deflate}-{count}"


def body(number):
    """A text that compresses as such texts do, with its number in front."""
    text = f"{number:08} " + " ".join(f'{{"id":{at * 7919 % 1000},"state":"moved"}}' for at in range(200))
    return text[:BODY_BYTES].encode()


def connect(number):
    extension = "Sec-WebSocket-Extensions: permessage-deflate\r\n" if deflate == "on" else ""
    # Each address has some 28,000 ports of its own.
    client = socket.create_connection((f"127.0.0.{1 + number // 20000}", port), PATIENCE_S)
    client.sendall(
        f"GET /chat/{ROOM}/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extension}\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.recv(1)
    assert head.startswith(b"HTTP/1.1 101 ") and (b"permessage-deflate" in head) == (deflate == "on"), head
    client.setblocking(False)
    return client


def ran_ms(of):
    """How long the threads of a process have run."""
    total_ns = 0
    for task in os.listdir(f"/proc/{of}/task"):
        with open(f"/proc/{of}/task/{task}/schedstat") as file:
            total_ns += int(file.read().split()[0])
    return total_ns / 1e6


def children():
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            found += file.read().split()
    return [int(child) for child in found]


def cpu_ms():
    """Of the server, and of the processes of its modules."""
    return ran_ms(pid), sum(ran_ms(child) for child in children())


def publish(number):
    asking = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    asking.request("POST", f"/chat/{ROOM}", body(number))
    assert asking.getresponse().status == 200
    asking.close()


def pong(client, ping):
    """Answers a ping, a whole frame: a client that does not is closed when the machine is slow."""
    client.send(bytes([0x8A, 0x80 | ping[1]]) + bytes(4) + ping[2:])


class Reader:
    def __init__(self, client):
        self.client, self.rest, self.came = client, b"", 0

    def read(self):
        """Takes whole frames: each must be the message whose turn it is."""
        try:
            more = self.client.recv(1 << 18)
        except BlockingIOError:
            return
        if not more:
            sys.exit("the server has closed a socket")
        self.rest += more
        while len(self.rest) >= 2:
            first, length = self.rest[0], self.rest[1]
            start = 2
            if length == 126:
                start, length = 4, int.from_bytes(self.rest[2:4].ljust(2, b"\xff"), "big")
            if len(self.rest) < start + length:
                return
            if first in (0x81, 0xC1):
                frame = self.rest[start : start + length]
                assert frame == expected[min(self.came, len(expected) - 1)][first], "another message than the one whose turn it is"
                sizes.add(start + length)
                self.came += 1
            elif first == 0x89:
                pong(self.client, self.rest[: start + length])
            elif first == 0x88:
                sys.exit(f"the server closes a socket: {self.rest[start : start + length]!r}")
            self.rest = self.rest[start + length :]


clients = [connect(number) for number in range(count)]
readers = {client.fileno(): Reader(client) for client in clients}
poll = select.epoll()
for descriptor in readers:
    poll.register(descriptor, select.EPOLLIN)
sizes, expected = set(), []


def wait(due):
    """Until each socket has had so many messages, or nothing comes for a while. Says how many frames are missing."""
    late = set(readers)
    while late:
        events = poll.poll(PATIENCE_S)
        if not events:
            break
        for descriptor, _ in events:
            readers[descriptor].read()
            if readers[descriptor].came >= due:
                late.discard(descriptor)
    return sum(due - readers[descriptor].came for descriptor in late)


def learn(number):
    """What the message must look like: plain, or as the first socket gets it compressed."""
    expected.append({0x81: body(number), 0xC1: None})
    first = readers[clients[0].fileno()]
    publish(number)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        select.select([clients[0]], [], [], PATIENCE_S)
        seen = first.rest + clients[0].recv(1 << 18, socket.MSG_PEEK)
        if len(seen) >= 2 and seen[1] < 126 and not first.rest:
            control = clients[0].recv(2 + seen[1])
            if control[0] == 0x88:
                sys.exit(f"the server closes the first socket: {control[2:]!r}")
            pong(clients[0], control)
        elif len(seen) >= 4 and len(seen) >= 4 + int.from_bytes(seen[2:4], "big"):
            frame = seen[4 : 4 + int.from_bytes(seen[2:4], "big")]
            if seen[0] == 0xC1:
                assert zlib.decompressobj(-15).decompress(frame + b"\0\0\xff\xff") == body(number)
                expected[number][0xC1] = frame
            return
        elif seen == first.rest:
            sys.exit("the server has closed the first socket")
    sys.exit("the first socket has had no message")


# on_open has to have run everywhere: the first message is sent until all have had it.
learn(0)
deadline = time.monotonic() + PATIENCE_S
while any(reader.came == 0 for reader in readers.values()) and time.monotonic() < deadline:
    publish(0)
    while events := poll.poll(0.5):
        for descriptor, _ in events:
            readers[descriptor].read()
for reader in readers.values():
    assert reader.came > 0, "a socket never was in the room"
    reader.came = 1
lost = 0
before, begun = cpu_ms(), time.monotonic()
for number in range(1, messages + 1):
    learn(number)
    lost += wait(number + 1)
server_ms, modules_ms = (after - first for after, first in zip(cpu_ms(), before))
frames = sum(reader.came for reader in readers.values()) - count
print(
    f"| {mode} | {deflate} | {count:,} | {frames:,} | {lost} | {max(sizes)} | {server_ms / messages:.2f} | {modules_ms / messages:.2f} "
    f"| {(server_ms + modules_ms) * 1000 / max(frames, 1):.2f} |"
)
sys.exit(lost > 0 or frames != count * messages)
