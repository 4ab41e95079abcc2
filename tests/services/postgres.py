"""A real PostgreSQL from Debian's packages; on loopback, in a folder of its own, with a password.

Its defaults are far from the usual on purpose (a collation that ignores case, another time zone, German dates):
whatever comes out of a query must not depend on them.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.services.kafka import free_port
from tests.services.waiting import until

USER = "lake"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "timezone": "Asia/Kathmandu",
    "datestyle": "German",
    "lc_messages": "C",
}


def _programs() -> Path | None:
    """Return the folder of the server's programs, of the newest version that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    program = str(found[-1]) if found else shutil.which("initdb")
    return Path(program).parent if program else None


def _account() -> str | None:
    """Return as whom the server runs: it refuses to be root."""
    if os.geteuid():
        return pwd.getpwuid(os.geteuid()).pw_name
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


def why_not() -> str | None:
    """Return why PostgreSQL cannot be started here; None if it can."""
    if _programs() is None:
        return "there is no initdb; apt-get install postgresql"
    return None if _account() else "it refuses to run as root, and there is neither 'postgres' nor 'nobody'"


class PostgresServer:
    """One server; keeps its data and port over a restart."""

    def __init__(self) -> None:
        programs, account = _programs(), _account()
        assert programs is not None
        assert account is not None
        self._programs, self._account = programs, pwd.getpwnam(account)
        self.port = free_port()
        self.password = f"Zzsecret{secrets.token_hex(8)}"
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="vitalake-postgres-"))  # not pytest's: only its owner enters there
        word = self._folder / "password"
        word.write_text(self.password)
        for path in (self._folder, word):
            os.chown(path, self._account.pw_uid, self._account.pw_gid)
        made = self._run(
            "initdb", "--pgdata", str(self._folder / "data"), "--username", USER, "--pwfile", str(word),
            "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8",
            "--locale-provider", "icu", "--icu-locale", "en-US-u-ks-level2", "--no-sync", "--no-instructions",
        )  # fmt: skip
        assert made.wait(120) == 0, self.log

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        other = None if os.geteuid() else self._account
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [str(self._programs / program), *arguments],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
                user=other.pw_uid if other else None,
                group=other.pw_gid if other else None,
                extra_groups=[] if other else None,
            )

    @property
    def log(self) -> str:
        """What the server wrote."""
        return (self._folder / "log").read_text(errors="replace")

    def files(self, folder: str) -> list[Path]:
        """Return the files below a folder of its data."""
        return sorted(path for path in (self._folder / "data" / folder).rglob("*") if path.is_file())

    def address(self, *, port: int | None = None, password: str | None = None, database: str = "postgres") -> str:
        """Return the address of a database, with the password in it."""
        return f"postgresql://{USER}:{password or self.password}@127.0.0.1:{port or self.port}/{database}"

    def start(self) -> PostgresServer:
        """Start, and wait until a query is answered."""
        options = [text for name, value in _SETTINGS.items() for text in ("-c", f"{name}={value}")]
        self._process = self._run("postgres", "-D", str(self._folder / "data"), "-p", str(self.port), *options)
        until(self._answers, seconds=60, process=self._process)
        return self

    def _answers(self) -> bool:
        from adbc_driver_postgresql import dbapi

        try:
            self.execute("SELECT 1")
        except dbapi.Error:
            return False
        return True

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Execute statements, each on its own."""
        from adbc_driver_postgresql import dbapi

        with dbapi.connect(self.address(database=database), autocommit=True) as connection:
            for statement in statements:
                with connection.cursor() as cursor:
                    cursor.execute(statement)

    def ingest(self, tables: dict[str, Any], *, database: str = "postgres") -> None:
        """Make tables of Arrow's."""
        from adbc_driver_postgresql import dbapi

        with dbapi.connect(self.address(database=database)) as connection:
            for name, table in tables.items():
                with connection.cursor() as cursor:
                    cursor.adbc_ingest(name, pa.table(table).to_reader(), mode="create")
            connection.commit()

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop (SIGINT: orderly, SIGQUIT: as if it had crashed) and wait for the end."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60)

    def promote(self) -> None:
        """Let a standby take writes from now on."""
        self.execute("SELECT pg_promote()")

    def remove(self) -> None:
        """Stop and remove its files."""
        if self._process is not None and self._process.poll() is None:
            self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder)


class Standby(PostgresServer):
    """A server that follows another one, synchronously, until it is promoted."""

    def __init__(self, primary: PostgresServer) -> None:
        self._programs, self._account, self.password = primary._programs, primary._account, primary.password
        self.port = free_port()
        self._process = None
        self._folder = Path(tempfile.mkdtemp(prefix="vitalake-standby-"))
        os.chown(self._folder, self._account.pw_uid, self._account.pw_gid)
        copied = self._run(
            "pg_basebackup", "--pgdata", str(self._folder / "data"), "--write-recovery-conf", "--checkpoint", "fast",
            "--dbname", primary.address(), "--no-sync",
        )  # fmt: skip
        assert copied.wait(120) == 0, self.log
        self.start()
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
