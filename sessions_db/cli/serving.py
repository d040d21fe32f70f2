"""What the commands that serve something share: their packages, the token, the socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final

import click

_SHORTEST_TOKEN: Final = 16


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Import in the block what the extra installs; if it is not installed, say that `what` needs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "sessions_db":
            raise
        raise click.ClickException(f"{what} {missing}: pip install 'sessions-db[{name}]'") from error


def token_in(file: IO[str]) -> str:
    """What the file holds, without the space around it.

    Raises:
        UsageError: it is not text.
    """
    try:
        return file.read().strip()
    except UnicodeDecodeError as error:
        raise click.UsageError(
            "The token file does not hold text, which a browser could send: `openssl rand -hex 32` makes a token."
        ) from error


def long_enough(token: str) -> str:
    """The token, if nobody can guess it by trying.

    Raises:
        UsageError: it is too short.
    """
    if len(token) < _SHORTEST_TOKEN:
        raise click.UsageError(f"The token has {len(token)} characters: take at least {_SHORTEST_TOKEN}.")
    return token


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        ClickException: nothing can.
    """
    try:
        return _listening(host, port)
    except OSError as error:
        raise click.ClickException(f"Can't listen on port {port} of {host}: {error.strerror}.") from error


def _listening(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        # Whoever reads the address may ask at once.
        listening.listen()
    except OSError:
        listening.close()
        raise
    return listening
