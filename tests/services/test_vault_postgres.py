"""The vault in a real PostgreSQL: several writers, lost connections, a server that goes and comes back.

What both databases have in common is put to both of them in tests/unit/governance/vault/test_vault*.py.
"""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec
import psycopg
import pytest

from governance.belonging import open_vault
from governance.home import init_home
from governance.vault.on_postgres import PostgresStore
from tests.services.postgres import PostgresServer, Standby
from tests.services.waiting import until
from tests.unit.governance.vault.vault_samples import PREPARE, PostgresPlace, people
from vitalake.errors import PrivacyError, ServiceUnavailable, SettingsError
from vitalake.keys import load_keys
from vitalake.settings import load_settings

pytestmark = pytest.mark.postgres

_WRITER = """
import hashlib, msgspec, random, threading
from vitalake.errors import ServiceUnavailable
from governance.keyservice import KeyRevoked
size, number = int(sys.argv[3]), int(sys.argv[4])
patients, keys, lost, pause = people(number), {}, 0, threading.Event()
random.Random(sys.argv[5]).shuffle(patients)

def trying(call):
    global lost
    while True:
        try:
            return call()
        except ServiceUnavailable:
            lost += 1
            print("lost", flush=True)
            pause.wait(0.02)

vault = trying(place.open)
print("ready", flush=True)
sys.stdin.readline()
for start in range(0, number, size):
    for key in trying(lambda: vault.enrol(patients[start:start + size])):
        digest = hashlib.sha256(key.secret).hexdigest()
        assert keys.setdefault(key.subject.hex(), digest) == digest
    print("batch", flush=True)
print(msgspec.json.encode({"keys": keys, "lost": lost}).decode(), flush=True)
"""


class Enrolled(NamedTuple):
    """What a writer got: digests of keys, and how often the vault was gone."""

    keys: dict[str, str]
    lost: int


class Writer:
    """A process that enrols patients in an order of its own, and tries again when the vault is gone."""

    def __init__(self, place: PostgresPlace, *, batch: int, number: int, seed: int) -> None:
        arguments = [str(place.folder), place.address, str(batch), str(number), str(seed)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", PREPARE + _WRITER, *arguments],
            env={"PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in, self._out = self.process.stdin, self.process.stdout

    def await_line(self, wanted: bytes) -> None:
        """Read on to such a line."""
        for line in self._out:
            if line.strip() == wanted:
                return
        raise AssertionError(wanted)

    def go(self) -> None:
        """Let it begin."""
        self._in.write(b"\n")
        self._in.flush()

    def result(self) -> Enrolled:
        """Wait for its end; return what it got."""
        last = self._out.read().splitlines()[-1]
        assert self.process.wait(60) == 0
        return Enrolled(**msgspec.json.decode(last))


def _started(place: PostgresPlace, *, batch: int, number: int) -> list[Writer]:
    writers = [Writer(place, batch=batch, number=number, seed=seed) for seed in (1, 2)]
    for writer in writers:
        writer.await_line(b"ready")
    for writer in writers:
        writer.go()
    return writers


def _check(place: PostgresPlace, results: list[Enrolled], number: int) -> None:
    """Nobody ever got another key than the one that is in the vault."""
    found = place.open().enrol(people(number))
    expected = {key.subject.hex(): hashlib.sha256(key.secret).hexdigest() for key in found if key}
    assert len(expected) == number
    assert all(result.keys == expected for result in results)


def test_two_writers_that_meet_a_thousand_new_patients_at_once_get_the_same_keys(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    place = PostgresPlace(tmp_path, postgres)
    results = [writer.result() for writer in _started(place, batch=1000, number=1000)]
    _check(place, results, 1000)


_KILL = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = 'vitalake vault' AND datname = current_database() AND wait_event_type = 'Lock'
"""


def test_connections_killed_again_and_again_never_make_a_second_key(postgres: PostgresServer, tmp_path: Path) -> None:
    place = PostgresPlace(tmp_path, postgres)
    writers = _started(place, batch=10, number=6000)
    with psycopg.connect(place.address) as holder, psycopg.connect(place.address, autocommit=True) as killer:
        for _ in range(15):
            holder.execute("LOCK TABLE patient IN SHARE ROW EXCLUSIVE MODE")  # whoever inserts waits in the middle
            until(lambda: killer.execute(_KILL).fetchall())
            holder.commit()
    results = [writer.result() for writer in writers]
    assert sum(result.lost for result in results) >= 15
    _check(place, results, 6000)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "crashed"])
def test_a_server_that_goes_and_comes_back_keeps_the_keys(
    own_postgres: PostgresServer, tmp_path: Path, number: signal.Signals
) -> None:
    place = PostgresPlace(tmp_path, own_postgres)
    writers = _started(place, batch=50, number=6000)
    for writer in writers:
        writer.await_line(b"batch")
    own_postgres.stop(number)
    for writer in writers:
        writer.await_line(b"lost")
    own_postgres.start()
    results = [writer.result() for writer in writers]
    assert all(result.lost for result in results)
    _check(place, results, 6000)


def test_a_standby_that_takes_over_has_every_key_that_anybody_got(own_postgres: PostgresServer, tmp_path: Path) -> None:
    place = PostgresPlace(tmp_path, own_postgres)
    place.open().check()
    standby = Standby(own_postgres)
    try:
        place.address = place.address.replace("127.0.0.1:", f"127.0.0.1:{standby.port},127.0.0.1:")
        writers = _started(place, batch=10, number=3000)
        for writer in writers:
            writer.await_line(b"batch")
        own_postgres.stop(signal.SIGQUIT)
        for writer in writers:
            writer.await_line(b"lost")
        standby.promote()
        results = [writer.result() for writer in writers]
        _check(place, results, 3000)
        with psycopg.connect(place.address) as connection:
            assert connection.info.port == standby.port
    finally:
        standby.remove()


def test_after_a_new_connection_keys_are_read_anew(postgres: PostgresServer, tmp_path: Path) -> None:
    """The server may be another one now, to which the last transactions did not come."""
    place = PostgresPlace(tmp_path, postgres)
    vault = place.open()
    first = vault.enrol(people(1))
    with psycopg.connect(place.address, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'vitalake vault'"
        )
        other.execute("DELETE FROM patient")
    place.seconds.now += 1
    with pytest.raises(ServiceUnavailable, match=r"Vault refuses \(AdminShutdown\): PostgreSQL"):
        vault.enrol(people(1))
    second = vault.enrol(people(1))
    assert second == place.open().enrol(people(1))
    assert second != first


def test_a_connection_that_was_lost_while_nobody_used_it_is_not_missed(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    place = PostgresPlace(tmp_path, postgres)
    store = place.store()
    with psycopg.connect(place.address, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'vitalake vault'"
        )
    store._used -= 6  # type: ignore[attr-defined]
    assert store.read("SELECT count(*) FROM patient") == [(0,)]
    assert store.connections == 2
    store._used -= 6  # type: ignore[attr-defined]
    assert store.read("SELECT count(*) FROM patient") == [(0,)]
    assert store.connections == 2


def test_a_user_who_does_not_own_the_tables_can_use_them_and_is_told_what_is_left_to_the_owner(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    place = PostgresPlace(tmp_path, postgres)
    place.open().check()
    owner, address = place.address, place.address.replace(f"lake:{postgres.password}", "lane:Zzlane")
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("CREATE ROLE lane LOGIN PASSWORD 'Zzlane'")
        connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO lane")
    place.address = address
    vault = place.open()
    vault.enrol(people(2))
    subject = vault.subject_of("Zzp-1")
    stored = bytes(vault._store.read("SELECT wrapped FROM patient WHERE subject = ?", (subject,))[0][0])
    with pytest.raises(PrivacyError, match="as the database user who owns"):
        vault.erase(subject, "c-1")
    assert place.open().tombstone(subject) is not None, "a lane opens it all the same"
    assert stored in place.content()
    place.address = owner
    place.open()
    assert stored not in place.content()
    assert vault.status().erased == 1


def test_a_transaction_whose_connection_is_lost_changed_nothing(postgres: PostgresServer, tmp_path: Path) -> None:
    place = PostgresPlace(tmp_path, postgres)
    vault = place.open()
    store = place.store()
    with pytest.raises(ServiceUnavailable), store.transaction() as transaction:
        transaction.run("UPDATE vault SET rotating = 1")
        postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'")
        transaction.run("UPDATE vault SET scrub = 1")
    assert store.read("SELECT rotating, scrub FROM vault") == [(0, 0)]
    assert not vault.status().rotating


def test_who_reads_on_and_on_keeps_an_erasure_from_its_end_and_that_is_said(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    place = PostgresPlace(tmp_path, postgres)
    vault = place.open()
    vault.enrol(people(2))
    subject = vault.subject_of("Zzp-1")
    stored = bytes(vault._store.read("SELECT wrapped FROM patient WHERE subject = ?", (subject,))[0][0])
    vault._store.read("SET lock_timeout = '50ms'")
    with psycopg.connect(place.address) as reader:
        reader.execute("SELECT count(*) FROM patient")
        with pytest.raises(ServiceUnavailable, match=r"\(LockNotAvailable\)"):
            vault.erase(subject, "c-1")
    assert vault.tombstone(subject) is not None
    assert stored in place.content()
    assert place.open().tombstone(subject) is not None
    assert stored not in place.content()


def test_a_home_reaches_it_by_reference_and_says_what_is_wrong(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, home = PostgresPlace(tmp_path, postgres), tmp_path / "home"
    init_home(home, lambda _: [])
    (home / "vitalake.yaml").write_text("vault: env:VITALAKE_TEST_VAULT\n")
    keys = load_keys(home / "keys.yaml")
    monkeypatch.setenv("VITALAKE_TEST_VAULT", place.address)
    vault = open_vault(load_settings(home), keys)
    assert vault.enrol(people(1))[0] is not None
    vault.close()
    assert not (home / "vault.db").exists()
    monkeypatch.setenv("VITALAKE_TEST_VAULT", postgres.address(password="Zzwrong", database="postgres"))
    with pytest.raises(ServiceUnavailable, match=r"Vault refuses \(OperationalError\)") as refused:
        open_vault(load_settings(home), keys)
    assert "Zz" not in str(refused.value)
    monkeypatch.setenv("VITALAKE_TEST_VAULT", "postgresql://h/d?Zznonsense=1")
    with pytest.raises(SettingsError, match="address is not a PostgreSQL URL") as none:
        open_vault(load_settings(home), keys)
    assert "Zz" not in str(none.value)


def test_several_that_make_the_tables_at_once_do_not_get_in_each_others_way(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    place = PostgresPlace(tmp_path, postgres)
    code = "sys.stdin.readline(); place.store()"
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", PREPARE + code, str(tmp_path), place.address],
            env={"PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write(b"\n")
        maker.stdin.flush()
    for maker in makers:
        until(lambda maker=maker: maker.poll() is not None)  # type: ignore[misc]
    assert [maker.returncode for maker in makers] == [0] * 4
    assert PostgresStore(place.address).read("SELECT count(*) FROM patient") == [(0,)]
