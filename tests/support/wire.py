"""A proxy in front of a Postgres server that counts what crosses the wire, and cuts it where a test asks for it."""

from __future__ import annotations

import ctypes
import select
import socket
import struct
import sys
import threading
from contextlib import suppress
from typing import Self

from sqlalchemy import URL, make_url

CAN_DROP_PACKETS = sys.platform == "linux"

_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27

# ReadyForQuery, without the byte for the state of the transaction: the server has done all that it was asked to do.
_READY = b"Z\x00\x00\x00\x05"


class _Requests:
    """What a client sends, taken apart into messages."""

    def __init__(self) -> None:
        self._rest = b""
        self._started = False

    def ended_by(self, data: bytes) -> int:
        """How many requests end within this part of the stream."""
        sent = self._rest + data
        ended = 0
        if not self._started:  # the startup message has a length and no type
            self._started, sent = True, sent[int.from_bytes(sent[:4]) :]
        while len(sent) >= 5 and len(sent) > (length := int.from_bytes(sent[1:5])):
            ended += sent[:1] in b"SQ"
            sent = sent[length + 1 :]
        self._rest = sent
        return ended


class Wire:
    """Forwards connections on a loopback port to the server and counts round trips.

    A round trip is a Sync or a Query message: what a client sends before it waits for ReadyForQuery
    (https://www.postgresql.org/docs/current/protocol-flow.html).
    """

    def __init__(self, url: str) -> None:
        self._server = make_url(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._clients: list[socket.socket] = []
        self._closing = False
        self._cut_request: int | None = None
        self._cut_answer: int | None = None
        self._abruptly = True
        self._silent = False
        self._deaf = False
        self._mended = threading.Event()
        self.round_trips = 0
        self.cuts = 0

    @property
    def url(self) -> URL:
        """The URL of the database through the proxy."""
        port = self._listener.getsockname()[1]
        query = {"sslmode": "disable", "gssencmode": "disable"}
        return self._server.set(host="127.0.0.1", port=port, query=query)

    def cut_request(self, number: int = 1, *, abruptly: bool = True) -> None:
        """Cut the connection when it sends its next request (or a later one, by `number`): the server never gets it."""
        self._abruptly = abruptly
        self._cut_request = self.round_trips + number

    def cut_answer(self, number: int = 1, *, abruptly: bool = True) -> None:
        """Cut the connection when the server has done what the next request (or a later one, by `number`) asked."""
        self._abruptly = abruptly
        self._cut_answer = self.round_trips + number

    def fall_silent(self) -> None:
        """Forward nothing more, while the connections stay up: the peer is there but silent."""
        self._mended.clear()
        self._silent = True

    def drop_packets(self) -> None:
        """Ignore every packet that arrives, like a network that was cut: nothing is acknowledged either."""
        self.fall_silent()
        # A filter program of one instruction (BPF_RET | BPF_K), which keeps no byte of any packet.
        program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
        for side in [self._listener, *self._clients]:
            side.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))
        self._deaf = True

    def restore(self) -> None:
        """Forward new connections again, and cut the silent ones."""
        if self._deaf:
            self._deaf = False
            for side in [self._listener, *self._clients]:
                side.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        if self._silent:
            self._silent = False
            for client in list(self._clients):
                with suppress(OSError):  # it is gone already
                    client.shutdown(socket.SHUT_RDWR)
        self._mended.set()

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing = True
        self.restore()
        # Wakes the accepting thread.
        socket.create_connection(self._listener.getsockname()).close()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self._closing:
                client.close()
                return
            thread = threading.Thread(target=self._forward, args=(client,))
            thread.start()
            self._threads.append(thread)

    def _connect(self) -> socket.socket:
        host = str(self._server.query.get("host", self._server.host or "127.0.0.1"))
        port = self._server.port or 5432
        if host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{host}/.s.PGSQL.{port}")
            return server
        return socket.create_connection((host, port))

    def _forward(self, client: socket.socket) -> None:
        # Either side may close at any time: then the other is closed too.
        with client, suppress(ConnectionError, FileNotFoundError), self._connect() as server:
            self._clients.append(client)
            try:
                self._forward_between(client, server)
            finally:
                self._clients.remove(client)

    def _forward_between(self, client: socket.socket, server: socket.socket) -> None:
        requests = _Requests()
        answered = b""
        while True:
            for side in select.select([client, server], [], [])[0]:
                data = side.recv(65536)
                if self._silent:
                    self._mended.wait()
                    return
                if not data:
                    return
                if side is client:
                    self.round_trips += requests.ended_by(data)
                    if self._is_due(self._cut_request):
                        self._cut_request = None
                        self._cut(client)
                        return
                    server.sendall(data)
                elif self._is_due(self._cut_answer):
                    answered = (answered + data)[-6:]
                    if answered[:-1] == _READY:
                        self._cut_answer = None
                        self._cut(client)
                        return
                else:
                    client.sendall(data)

    def _is_due(self, cut: int | None) -> bool:
        return cut is not None and self.round_trips >= cut

    def _cut(self, client: socket.socket) -> None:
        self.cuts += 1
        if self._abruptly:
            # Closing sends a reset.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
