"""A proxy in front of a Postgres server that counts what crosses the wire."""

from __future__ import annotations

import select
import socket
import threading
from typing import Self

from sqlalchemy import URL, make_url


class Wire:
    """Forwards connections on a loopback port to the server and counts round trips.

    A round trip is a Sync or a Query message: what a client sends before it waits for ReadyForQuery
    (https://www.postgresql.org/docs/current/protocol-flow.html).
    """

    def __init__(self, url: str) -> None:
        self._server = make_url(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._closing = False
        self.round_trips = 0

    @property
    def url(self) -> URL:
        """The database, by way of the proxy."""
        port = self._listener.getsockname()[1]
        query = {"sslmode": "disable", "gssencmode": "disable"}
        return self._server.set(host="127.0.0.1", port=port, query=query)

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing = True
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
        with client, self._connect() as server:
            sent = b""
            started = False
            while True:
                for side in select.select([client, server], [], [])[0]:
                    data = side.recv(65536)
                    if not data:
                        return
                    if side is server:
                        client.sendall(data)
                        continue
                    sent += data
                    if not started:  # the startup message has a length and no type
                        started, sent = True, sent[int.from_bytes(sent[:4]) :]
                    while len(sent) >= 5 and len(sent) > (length := int.from_bytes(sent[1:5])):
                        self.round_trips += sent[:1] in b"SQ"
                        sent = sent[length + 1 :]
                    server.sendall(data)
