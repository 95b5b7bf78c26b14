# SPDX-License-Identifier: Apache-2.0
"""A Redis client of a few lines, for tests that want the bytes as they are.

    with Resp(port) as r:
        r.ask("SET", b"k", b"v")      -> "OK"
        r.ask("GET", "k")             -> b"v"; None for nil
        r.ask("GET", b"k", b"x")      -> Error("ERR wrong number ...")

Simple strings are str, bulks bytes, numbers int, arrays lists. An error is a
value, not an exception. The end of the connection is CLOSED.
"""

import socket

from node import LIMIT_S

CLOSED = "closed"


class Error(str):
    pass


def pack(*words):
    words = [w if isinstance(w, (bytes, bytearray)) else str(w).encode()
             for w in words]
    return b"*%d\r\n" % len(words) + b"".join(
        b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


class Resp:
    def __init__(self, port, host="127.0.0.1", password=None, receive=None):
        self.s = socket.socket()
        if receive:
            self.s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        self.s.settimeout(LIMIT_S)
        self.s.connect((host, port))
        self.s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.f = self.s.makefile("rb")
        if password is not None:
            assert self.ask("AUTH", password) == "OK"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.f.close()
        self.s.close()

    def send(self, data):
        self.s.sendall(data)

    def read(self):
        try:
            line = self.f.readline()
        except ConnectionError:
            return CLOSED
        if not line.endswith(b"\r\n"):
            return CLOSED
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            return Error(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.bulk(int(rest))
        if kind == b"_":
            return None
        if kind == b"%":
            return {self.read(): self.read() for _ in range(int(rest))}
        assert kind == b"*", line
        return [self.read() for _ in range(int(rest))]

    def bulk(self, n):
        data = self.f.read(n + 2)
        assert len(data) == n + 2 and data.endswith(b"\r\n"), len(data)
        return data[:-2]

    def ask(self, *words):
        self.send(pack(*words))
        return self.read()

    def closed(self):
        """Has the other side ended it? Waits for that."""
        try:
            return self.f.read(1) == b""
        except ConnectionError:
            return True
