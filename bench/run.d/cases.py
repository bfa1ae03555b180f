"""The cases of bench/run: what is sent, and to which servers."""
import hashlib, random

BROWSER = (
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n"
    "Accept-Encoding: identity\r\nAccept-Language: en-GB,en;q=0.9\r\nCache-Control: max-age=0\r\nSec-Fetch-Dest: document\r\n"
    "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Site: none\r\nSec-Fetch-User: ?1\r\nUpgrade-Insecure-Requests: 1\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36\r\n"
    "Cookie: session=0123456789abcdef; theme=dark\r\n")
TEXT = b"Hello, World!"
JSON = b'{"message":"Hello, World!","id":42}'
KIB, MIB = 1024, 1048576
CLOSED = "plaintext, 64 connections"
MODULES = 64


def table(size):
    """Lines of CSV, and the sum of their third column."""
    lines, length, total, numbers = [], 0, 0, random.Random(17)
    while length < size - 64:
        value = numbers.randrange(1000000)
        lines.append(f"{len(lines)},name-{numbers.randrange(5000)},{value}\n")
        length += len(lines[-1])
        total += value
    return "".join(lines).encode(), str(total).encode()


CSV, CSV_SUM = table(MIB)


class Case:
    """`path`: of the route, with {kind}. `needs`: what a server must be able to do, see `servers.py`. `rate`: of the open loop, requests a
    second; below 1 the part of what the server answers in the closed loop. `expected`: the body, or a function that checks it."""

    def __init__(self, name, short, needs, path="/{kind}", connections=64, fields="", body=None, depth=1, expected=TEXT, group="plain",
                 rate=None, beside=False, options=(), variants=1, overhead=0.15):
        self.name, self.short, self.needs, self.path, self.connections = name, short, needs, path, connections
        self.fields, self.body, self.depth, self.expected, self.group = fields, body, depth, expected, group
        self.rate, self.beside, self.options, self.variants, self.overhead = rate, beside, options, variants, overhead

    def request(self, kind, port, variant=0):
        """The bytes of one request."""
        fields = self.fields
        if self.body is not None:
            fields += f"Content-Type: application/octet-stream\r\nContent-Length: {len(self.body)}\r\n"
        path = self.path.format(kind=kind, number=f"{variant:02}")
        head = f"{'GET' if self.body is None else 'POST'} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{fields}\r\n"
        return head.encode() + (self.body or b"")

    def requests(self, kind, port):
        """What the load generator sends."""
        return b"".join(self.request(kind, port, variant) * self.depth for variant in range(self.variants))

    def accepts(self, head, body):
        """Whether an answer is right."""
        is_json = b"\r\ncontent-type: application/json\r\n" in head.lower() + b"\r\n"
        right = self.expected(body) if callable(self.expected) else body == self.expected
        return right and head.startswith(b"HTTP/1.1 200 ") and is_json == (self.expected == JSON)


def is_compressed(body):
    return body.isdigit() and MIB // 20 < int(body) < MIB


X = b"x"
CASES = {case.name: case for case in (
    Case(CLOSED, "64 connections", "floor"),
    Case("plaintext, 1 connection", "1 connection", "plain", connections=1),
    Case("plaintext, 512 connections", "512", "plain", connections=512),
    Case("pipelined 16 deep, 64 connections", "pipelined", "floor", depth=16),
    Case("13 header fields, 64 connections", "13 fields", "plain", fields=BROWSER),
    Case("JSON, 64 connections", "JSON", "json", path="/{kind}/json", expected=JSON),
    Case("POST of 1 KiB, 64 connections", "POST 1 KiB", "body", body=X * KIB),
    Case("POST of 64 KiB, 64 connections", "POST 64 KiB", "body", body=X * 64 * KIB),
    Case("POST of 1 MiB, 8 connections", "POST 1 MiB", "body", connections=8, body=X * MIB),
    Case("POST of 64 MiB, 2 connections", "POST 64 MiB", "body", connections=2, body=X * 64 * MIB, options=("--stall", "60"), overhead=1.2),
    Case("a connection for each request, 64 at a time", "churn", "plain", fields="Connection: close\r\n", options=("--churn",)),
    Case("open loop, 20,000 requests/s, 64 connections", "20,000/s", "plain", rate=20000),
    Case("open loop, 60 % of the closed loop's rate, 64 connections", "60 %", "plain", rate=0.6),
    Case("SHA-256 of 1 MiB, 8 connections", "SHA-256", "compute", path="/sha256", connections=8, body=X * MIB,
         expected=hashlib.sha256(X * MIB).hexdigest().encode()),
    Case("zstd of 1 MiB, 8 connections", "zstd", "zstd", path="/zstd", connections=8, body=CSV, expected=is_compressed),
    Case("CSV sum of 1 MiB, 8 connections", "CSV sum", "compute", path="/csv", connections=8, body=CSV, expected=CSV_SUM),
    Case("plaintext, 10,000 connections", "10,000", "plain", connections=10000, overhead=1.5),
    Case("fast route alone, two cores", "alone", "beside", group="beside"),
    Case("fast route beside one of 50 ms, two cores", "beside 50 ms", "beside", group="beside", beside=True, overhead=1.5),
    Case("TLS 1.3, 64 connections", "TLS", "tls", group="tls"),
    Case("TLS 1.3, a handshake for each request, 64 at a time", "handshake", "tls", group="tls", fields="Connection: close\r\n",
         options=("--churn",)),
    Case(f"{MODULES} modules, inline handlers, isolated, 64 connections", "inline", "domains", path="/m{number}/inline", group="domains",
         variants=MODULES, overhead=0.4),
    Case(f"{MODULES} modules, ordinary handlers, isolated, 64 connections", "ordinary", "domains", path="/m{number}/ordinary",
         group="domains", variants=MODULES, overhead=0.4),
)}
SLOW = Case("", "", "", path="/slow", connections=4, expected=b"done")
