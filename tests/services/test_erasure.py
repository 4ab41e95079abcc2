"""Erasure: after it nothing of the patient is found, in any byte of the home, by any key that is left."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from governance.belonging import open_vault
from governance.erasure.certificate import all_of
from governance.home import init_home
from governance.samples import copy_samples
from pipelines.core.dead_letters import open_message
from pipelines.erasure.quarantine_store import Search
from pipelines.history.load import load_history
from pipelines.intake.steps import make_sealer
from pipelines.online_store.opening import open_online_store
from pipelines.simulator.warehouse_mimic import make_demo_warehouse
from tests import forking
from tests.fhir import message
from tests.services.demo import leave
from tests.services.polls import LaneWithoutKafka
from vitalake.errors import PrivacyError
from vitalake.keys import load_keys
from vitalake.lake.commits.lake import Lake
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.maintenance.compaction import put_into_buckets
from vitalake.settings import Settings, load_settings

POINTS = ("erase-begun", "fence-raised", "erase-settled", "erase-table", "rewrite-staged", "rewrite-committed",
          "erase-elsewhere", "erase-certified")  # fmt: skip
SOURCE = ("mimic-demo.v3.duckdb", "anchors.json")
"""The demo's warehouse, and what it is made with: outside the lake's reach, and said so on the certificate."""

MASKED = ("observation", "encounter", "ward_movement", "condition", "patient")


@dataclass(frozen=True)
class Who:
    """Everything by which a patient of the demo can be told."""

    source_id: str
    token: str
    subject: bytes
    texts: tuple[str, ...]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the demo's history, and with messages from the bedside, of which some were rejected."""
    home = tmp_path_factory.mktemp("erasure") / "home"
    init_home(home, copy_samples)
    settings = load_settings(home)
    leave(make_demo_warehouse(home), stays=5)
    load_history(settings, "mimic-demo")
    source_id = _who(settings).source_id
    lane = LaneWithoutKafka(home)
    mine = [message(i, patient=source_id, device={"reference": f"Device/monitor-{i % 2}"}) for i in range(10)]
    others = [message(100 + i, patient="somebody-else") for i in range(10)]
    bad = [message(200, patient=source_id, value=9_999.0), message(201, patient="somebody-else", value=9_999.0), b"{"]
    lane.send([(0, m) for m in mine + others + bad], cut=True)
    lane.rows()
    lane.lane.steps.close()
    return home


@pytest.fixture
def home(loaded: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    folder = tmp_path / "home"
    shutil.copytree(loaded, folder)
    return folder


def _who(settings: Settings) -> Who:
    """Return a patient who has rows in every table, and dead letters."""
    keys = load_keys(settings.path(settings.keys))
    vault = open_vault(settings, keys)
    lake = Lake(settings.lake_uri, {})
    counts: Counter[bytes] = Counter(
        lake.present()["restricted/observation"].scan(columns=["subject"])["subject"].to_pylist()
    )
    of_condition = set(lake.present()["restricted/condition"].scan(columns=["subject"])["subject"].to_pylist())
    tokens = vault.tokens()
    known = {subject: vault.look_up(token) for subject, token in tokens.items()}
    identities = {s: known[s] for s, _ in counts.most_common() if s in of_condition}
    names = Counter(identity.name for identity in known.values() if identity)
    # Made-up names are few: one that two patients have is found again, and rightly so.
    subject, identity = next((s, i) for s, i in identities.items() if i and i.mrn and i.address and names[i.name] == 1)
    source_id, token = vault.patient_ids([subject])[subject], tokens[subject]
    assert identity.name and identity.mrn and identity.address
    stays = make_sealer(load_dataset("encounter"), vault, keys).open(lake.present()["restricted/encounter"].scan())
    mine = [i for i, patient in enumerate(stays["patient_id"].to_pylist()) if patient == source_id]
    vault.close()
    texts = (
        source_id,
        identity.mrn,
        identity.name,
        identity.address,
        token,
        *stays["encounter_id"].take(mine).to_pylist(),
    )
    return Who(source_id, token, subject, texts)


def _run(
    home: Path, *arguments: str, env: dict[str, str] | None = None, given: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        forking.command("vitalake", "patient", *arguments, "--home", str(home)),
        capture_output=True, text=True, input=given, env=os.environ | (env or {}), check=False,
    )  # fmt: skip


def _erase(home: Path, who: Who) -> dict[str, Any]:
    done = _run(home, "erase", "-", "--reason", "request 17", "--yes", "--json", given=who.source_id + "\n")
    assert done.returncode == 0, done.stderr
    assert not [text for text in who.texts if text in done.stdout + done.stderr]
    document: dict[str, Any] = msgspec.json.decode(done.stdout)
    return document


def _everything(home: Path) -> Iterator[tuple[str, bytes]]:
    """Yield all that can be read of a home, by whoever has its keys: raw files, values, opened values and messages."""
    settings = load_settings(home)
    keys = load_keys(settings.path(settings.keys))
    vault = open_vault(settings, keys)
    for path in home.rglob("*"):
        if not path.is_file() or path.name in SOURCE:
            continue
        yield str(path.relative_to(home)), path.read_bytes()
        if path.suffix == ".parquet" and "spans-seen" not in path.parts:
            rows = pq.ParquetFile(path).read()
            yield f"{path.name} read", _texts(rows)
            if "_delta_log" in path.parts:
                continue
            if "restricted" in path.parts:
                dataset = load_dataset(path.relative_to(home / "lake/restricted").parts[0])
                opened = make_sealer(dataset, vault, keys).open(rows)
                yield f"{path.name} opened", _texts(opened)
            if "dead_letter" in path.parts:
                for row in rows.to_pylist():
                    yield f"{path.name} message", open_message(row, keys).payload
    vault.close()


def _texts(rows: pa.Table) -> bytes:
    """Return every distinct text and hash of the rows; values of other types name nobody."""
    found: list[bytes] = []
    for column in rows.columns:
        if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
            found += [v if isinstance(v, bytes) else v.encode() for v in column.unique().to_pylist() if v]
    return b"\n".join(found)


def _found(home: Path, who: Who) -> list[str]:
    needles = [text.encode() for text in who.texts] + [who.subject]
    return sorted({where for where, content in _everything(home) if any(needle in content for needle in needles)})


def _left(home: Path, who: Who) -> list[str]:
    """Return where something of the patient is found, other than the subject, a keyed hash, in tombstone and log."""
    return [where for where in _found(home, who) if not where.startswith(("vault.db", "certificates/", "erasures"))]


def _published(home: Path) -> list[str]:
    lake = Lake(load_settings(home).lake_uri, {})
    patients: list[str] = lake.published.scan(columns=["patient_id"])["patient_id"].to_pylist()
    return patients


def _rows_of_others(home: Path, who: Who) -> dict[str, Counter[Any]]:
    lake = Lake(load_settings(home).lake_uri, {})
    found = {}
    for name, table in lake.present().items():
        if name.startswith("published/"):
            rows = table.scan()
            kept = [row for row in zip(*(rows[c].to_pylist() for c in rows.schema.names), strict=True)
                    if who.token not in row]  # fmt: skip
            found[name] = Counter(kept)
    return found


def test_nothing_is_left_in_any_byte_and_nothing_of_others_is_gone(home: Path) -> None:
    settings = load_settings(home)
    who = _who(settings)
    before = _rows_of_others(home, who)
    assert len(_found(home, who)) > 8, "the search must find what is there"
    document = _erase(home, who)
    assert _left(home, who) == []
    for where in ("vault.db", f"certificates/{document['id']}.json", "erasures.jsonl"):
        content = (home / where).read_bytes()
        assert not [text for text in who.texts if text.encode() in content]
    assert _rows_of_others(home, who) == before
    removed = {table["table"]: table["rows"] for table in document["tables"]}
    assert all(removed[f"{zone}/{name}"] > 0 for zone in ("published", "restricted") for name in MASKED)
    assert removed["quarantine/dead_letter"] >= 1
    care = open_online_store(settings, load_keys(settings.path(settings.keys)))
    assert len(care.history(who.token)) == 0
    care.close()


def test_the_lake_is_sound_and_the_ledger_balanced_afterwards(home: Path) -> None:
    _erase(home, _who(load_settings(home)))
    for command in (("lake", "verify"), ("ledger",)):
        done = subprocess.run(forking.command("vitalake", *command, "--home", str(home), "--json"),
                              capture_output=True, text=True, check=False)  # fmt: skip
        document = msgspec.json.decode(done.stdout)
        assert done.returncode == 0, document
        assert document.get("sound", True)
        assert document.get("balanced", True)


def test_older_versions_and_bucketed_files_show_nothing_either(home: Path) -> None:
    settings = load_settings(home)
    who = _who(settings)
    table = Lake(settings.lake_uri, {}).present()["published/observation"]
    assert put_into_buckets(table, 4, closed_before="9999-12-31").days > 0
    _erase(home, who)
    paths = list((home / "lake/published/observation/").glob("day=*/*.parquet"))
    newest = Lake(settings.lake_uri, {}).present()["published/observation"].snapshot()
    assert len(paths) > len(newest.files), "older versions keep the files of others"
    for path in paths:
        assert who.token not in pq.ParquetFile(path).read(["patient_id"])["patient_id"].to_pylist()


def test_a_replayed_message_of_somebody_forgotten_is_filtered_and_counted(home: Path) -> None:
    who = _who(load_settings(home))
    _erase(home, who)
    lane = LaneWithoutKafka(home, topic_id="again")
    lane.send([(0, message(i, patient=who.source_id)) for i in range(5)] + [(0, message(9, patient="other"))], cut=True)
    lane.rows()
    lane.lane.steps.close()
    spans = [s for s in lane.lane.lake.spans.all_spans() if s.parts[0].id.topic_id == "again"]
    assert [(p.counts.rows, p.counts.filtered, p.counts.published) for s in spans for p in s.parts] == [(6, 5, 1)]
    assert _left(home, who) == []


def test_a_lane_that_was_under_way_loses_its_span_and_reads_it_again_without_the_patient(home: Path) -> None:
    from vitalake.lake.commits.span_log import SpanConflict

    who = _who(load_settings(home))
    lane = LaneWithoutKafka(home, topic_id="under-way")
    lane.send([(0, message(i, patient=who.source_id)) for i in range(5)], cut=False)
    _erase(home, who)
    with pytest.raises(SpanConflict):
        lane.lane.finish()
    lane.lane.reset()
    lane.lane.steps.close()
    assert not [s for s in lane.lane.lake.spans.all_spans() if s.parts[0].id.topic_id == "under-way"]


@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_it_goes_on_and_ends(home: Path, point: str) -> None:
    who = _who(load_settings(home))
    before = _rows_of_others(home, who)
    killed = _run(home, "erase", who.token, "--reason", "request 17", "--yes", env={"VITALAKE_CRASH_AT": point})
    assert killed.returncode == -signal.SIGKILL
    done = _run(home, "erase", "--json")
    assert done.returncode == 0, done.stderr
    assert _left(home, who) == []
    assert _rows_of_others(home, who) == before
    (certificate,) = all_of(home / "certificates")
    assert certificate.reason == "request 17"
    assert _run(home, "erase").stdout == "", "nothing is left to be done"


def test_a_restored_back_up_does_not_bring_the_patient_back(home: Path, tmp_path: Path) -> None:
    settings = load_settings(home)
    who = _who(settings)
    shutil.copytree(home / "lake", tmp_path / "lake")
    for name in ("vault.db", "vault-keys.yaml", "care.db"):
        shutil.copy(home / name, tmp_path / name)
    with sqlite3.connect(tmp_path / "vault.db") as db:
        db.execute("PRAGMA wal_checkpoint")
    _erase(home, who)
    shutil.rmtree(home / "lake")
    shutil.copytree(tmp_path / "lake", home / "lake")
    shutil.copy(tmp_path / "vault.db", home / "vault.db")
    keys = load_keys(settings.path(settings.keys))
    with pytest.raises(PrivacyError, match="vitalake patient reapply"):
        open_vault(settings, keys)
    vault = open_vault(settings, keys, allow_restored_lake=True)  # as who erases in it again
    assert vault.patient_ids([who.subject]) == {}, "the key is destroyed again before anything else"
    restricted = Lake(settings.lake_uri, {}).present()["restricted/observation"].scan()
    assert who.subject in restricted["subject"].to_pylist()
    opened = make_sealer(load_dataset("observation"), vault, keys).open(restricted)
    assert who.source_id not in opened["patient_id"].to_pylist()
    vault.close()
    done = _run(home, "reapply", "--json")
    assert done.returncode == 0, done.stderr
    tables = {table["table"] for table in msgspec.json.decode(done.stdout)["tables"]}
    assert {"published/observation", "restricted/observation"} <= tables
    found = _found(home, who)
    assert not [where for where in found if "published" in where or "restricted" in where or where.endswith("opened")]


def test_a_legal_hold_stops_it_with_the_reason_and_nothing_is_done(home: Path) -> None:
    who = _who(load_settings(home))
    assert _run(home, "hold", who.token, "--reason", "court order 5").returncode == 0
    stopped = _run(home, "erase", who.token, "--reason", "request 17", "--yes")
    assert stopped.returncode == 12
    assert "court order 5" in stopped.stderr
    assert who.source_id not in stopped.stderr
    assert who.token in _published(home)
    assert _run(home, "release", who.token).returncode == 0
    _erase(home, who)


def test_records_that_must_be_kept_stop_it_with_the_reason(home: Path) -> None:
    who = _who(load_settings(home))
    (home / "vitalake.yaml").write_text("records: {keep_days: 3650, basis: 'Health Records Act, 10 years'}")
    stopped = _run(home, "erase", who.token, "--reason", "request 17", "--yes")
    assert stopped.returncode == 12
    assert "Health Records Act, 10 years" in stopped.stderr
    assert who.token in _published(home)
    (home / "vitalake.yaml").write_text("records: {keep_days: 0}")
    _erase(home, who)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("erase", "nobody-at-all", "--reason", "r", "--yes"), 11, "No patient has this pseudonym or id"),
        (("erase", "x", "--yes"), 2, "--reason"),
        (("certificate", "erasure-20250101-00000000"), 11, "No readable certificate has this id"),
        (("hold", "nobody-at-all", "--reason", "r"), 11, "No patient has this pseudonym or id"),
    ],
)
def test_what_is_asked_wrongly_is_said_and_does_nothing(
    loaded: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = _run(loaded, *arguments)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "nobody-at-all" not in done.stderr


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (b'{"subject":{"reference":"Patient/72"}}', True),
        (b'{"patient_id": 72}', True),
        (b"PID|1||72^^^HOSP^MR||DOE", True),
        (b"PID|1||X~72||", True),
        (b'{"valueQuantity":{"value":72}}', False),
        (b'{"subject":{"reference":"Patient/720"}}', False),
        (b"OBX|1|NM|8867-4||172|/min", False),
        (b'[{"id":"a-72"}]', False),
    ],
)
def test_messages_are_searched_for_an_identifier_and_not_for_a_number(payload: bytes, *, named: bool) -> None:
    assert Search(["72"], keys=None).names(payload) is named  # type: ignore[arg-type]
