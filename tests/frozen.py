"""A home and lake as an earlier release made them, kept as an archive: every later release must open and upgrade them.

``python -m tests.frozen make ARCHIVE`` made ``tests/data/frozen/format-0.tar.xz`` with the code of commit 5dc9f02, and
beside it ``format-0.json``: what that code read from it. Neither is made again when the code changes: that is their
use. All values and identifiers are invented; the keys in the archive are test keys. What is in it:

- the live lane: values in FHIR and HL7 v2, a panel, corrections, one taken back, a repeat, dead letters of several
  reasons, messages that are held because no association names their patient, values that were moved from one patient
  to another by a later association, an admission feed;
- the history lane: five datasets of a small warehouse, ordered by its own identifiers, loaded twice, with changed rows;
- one day in buckets; a legal hold; an audited question;
- a patient who was erased, and a span that was decided and not added: its writer was killed.

Identifiers have nothing to do with time or with values, so that any order that follows from them can be noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

FOLDER = Path(__file__).parent / "data" / "frozen"
FORMATS = ("format-0",)
"""Archives, oldest first."""

BEGIN = datetime(2025, 6, 1, 10, 0, tzinfo=UTC)
PATIENTS = [f"{number}" for number in random.Random(5).sample(range(10_000_000, 99_999_999), 40)]
"""In the order in which they come; sorted, they say nothing about it."""

ERASED = PATIENTS[7]
ERASED_TEXTS = (ERASED, f"Family{ERASED[-4:]}", f"MRN-{ERASED[::-1]}", f"{ERASED[:3]} Erased Street")
"""What stood of the erased patient in messages and warehouse."""

MOMENTS = ("2025-06-01T10:00:30+00:00", "2025-06-01T12:00:00+00:00")
PENDING = 6
"""Messages of the span that is decided and not added."""

SENT = 80 + 32 + 6 + 20 + 4 + 6 + PENDING
"""Messages of the live lane, all together."""


def stays(patients: Iterable[str]) -> list[str]:
    """Return the numbers of the patients' stays: sorted, they stand in another order than the patients'."""
    return [f"e-{patient[::-1]}" for patient in patients]


def unpack(folder: Path, name: str = FORMATS[-1]) -> Path:
    """Unpack an archive into a folder and return the home; the key files' modes are as they were."""
    with tarfile.open(FOLDER / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="tar")
    return folder / "home"


def expected(name: str = FORMATS[-1]) -> dict[str, Any]:
    """Return what an archive must read."""
    document: dict[str, Any] = msgspec.json.decode((FOLDER / f"{name}.json").read_bytes())
    return document


# -- what a home reads -------------------------------------------------------------------------------------------------


def settle(home: Path) -> None:
    """Add what was decided and not added."""
    from vitalake.lake.commits.lake import Lake
    from vitalake.settings import load_settings

    settings = load_settings(home)
    lake = Lake(settings.lake_uri, settings.storage_options)
    parts = {part.id for span in lake.spans.all_spans() for part in span.parts if span.dataset == "observation"}
    lake.roll_forward(sorted(parts), since_us=0)


def reading(home: Path, *, like: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return all that a home reads: counts and digests of rows, views, ledger, dead letters and held messages.

    The published position of a message may be any number that tells messages apart, and rows lie in any order; of the
    rest every value counts.

    Args:
        home: of which.
        like: an earlier reading: only its columns are read, whatever a later release has added.
    """
    from vitalake.keys import load_keys
    from vitalake.lake.commits.lake import Lake
    from vitalake.lake.commits.ledger import summarise
    from vitalake.lake.maintenance.verify import verify
    from vitalake.settings import load_settings

    settings = load_settings(home)
    keys = load_keys(settings.path(settings.keys))
    lake = Lake(settings.lake_uri, settings.storage_options)
    tables = lake.present()
    ledger = summarise(lake.spans).to_json()
    return {
        "tables": {
            name: _table_reading(settings, keys, table, ((like or {}).get("tables") or {}).get(name))
            for name, table in tables.items()
            if name != "spans"
        },
        "views": _views(settings, keys, (like or {}).get("views") or {}),
        "spans": digest(sorted((span.span_id, span.kind, span.dataset) for span in lake.spans.all_spans())),
        "ledger": {name: ledger[name] for name in _LEDGER},
        "wrong": [finding.kind for finding in verify(lake) if finding.severity == "error"],
    }


OF_OURS = ("ingested_at", "available_at", "told_at", "version")
"""Times, and versions of loads, that may be of our own clocks: an upgrade publishes the end of their day, and marks
them where they are."""


def without_times(like: dict[str, Any]) -> dict[str, Any]:
    """Return a reading to read like, without times that may be ours, nor what is published otherwise by now."""

    def kept(kind: str, name: str, column: str) -> bool:
        published = name.startswith("published/") if kind == "tables" else not name.startswith("restricted_")
        return column not in OF_OURS and not (published and column in ("source", "attribution"))

    zones = ("published/", "restricted/")
    tables, views = (
        {
            name: entry | {"columns": [column for column in entry["columns"] if kept(kind, name, column)]}
            if kind == "views" or name.startswith(zones)
            else entry
            for name, entry in like[kind].items()
        }
        for kind in ("tables", "views")
    )
    for name in set(views) - {"observation"}:  # of records stamps are all that says when they were known: decision 80
        views[name] = {view: entry for view, entry in views[name].items() if view not in MOMENTS}
    return like | {"tables": tables, "views": views}


_LEDGER = (
    "balanced", "messages", "decoded", "undecodable", "tombstones", "rows", "published", "rejected", "duplicate",
    "filtered", "held", "recovered", "attributed",
)  # fmt: skip


def _table_reading(settings: Any, keys: Any, table: Any, like: dict[str, Any] | None) -> dict[str, Any]:
    zone, _, dataset = table.name.rpartition("/")
    rows = table.scan()
    if zone == "restricted":
        rows = _opened(settings, keys, dataset, rows)
    columns = sorted(like["columns"]) if like else sorted(rows.schema.names)
    content = rows.select(columns).to_pylist()
    if zone == "quarantine" and "payload" in columns:
        from pipelines.core.dead_letters import open_message

        content = [row | {"payload": open_message(row, keys).payload, "nonce": b""} for row in content]
    if zone == "published":
        hidden = {"source_position", "source"} - {*columns} | {"source_position"}
        content = by_message(rows.select(sorted({*columns, "source"})).to_pylist(), hidden)
    return {"rows": rows.num_rows, "columns": columns, "digest": digest(sorted(map(repr, map(_plain, content))))}


def _opened(settings: Any, keys: Any, dataset: str, rows: Any) -> Any:
    from governance.belonging import open_vault
    from pipelines.intake.steps import make_sealer
    from vitalake.lake.datasets.declared import load_dataset

    vault = open_vault(settings, keys)
    try:
        return make_sealer(load_dataset(dataset), vault, keys).open(rows)
    finally:
        vault.close()


def by_message(rows: Iterable[dict[str, Any]], hidden: Collection[str] = ("source_position",)) -> list[list[str]]:
    """Return published rows message by message, without the number that tells messages apart."""
    messages: dict[object, list[str]] = defaultdict(list)
    for row in rows:
        place = (row["source"], row["source_position"])
        messages[place].append(repr(_plain({k: v for k, v in row.items() if k not in hidden})))
    return [sorted(message) for message in messages.values()]


def _views(settings: Any, keys: Any, like: dict[str, Any]) -> dict[str, Any]:
    """Return what the query service shows of each dataset, now and as known at two moments."""
    from governance.query.catalogue import Catalogue
    from governance.query.engine import connect

    catalogue = Catalogue(settings, keys)
    found: dict[str, Any] = {}
    for name in like or catalogue.names:
        with catalogue.relations([name], identified=True) as relations:
            connection = connect(relations, memory_mb=256)
            shown = set(relations[0].columns) - {"source_position"}
            columns = like[name]["columns"] if like else sorted(shown)
            views = {"now": name} | {at: f"{name}_as_known_at('{at}')" for at in MOMENTS}
            views = {view: source for view, source in views.items() if not like or view in like[name]}
            found[name] = {"columns": columns}
            for view, source in views.items():
                rows = connection.sql(f"SELECT {', '.join(columns)} FROM {source}").fetchall()  # noqa: S608
                found[name][view] = {"rows": len(rows), "digest": digest(sorted(map(repr, map(_plain, rows))))}
            connection.close()
    return found


def _plain(value: Any) -> Any:
    """Return a value whose repr does not depend on libraries."""
    if isinstance(value, dict):
        return {name: _plain(value[name]) for name in sorted(value)}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    return value.isoformat() if hasattr(value, "isoformat") else value


def digest(content: Any) -> str:
    """Return a short digest of lists and texts."""
    return hashlib.sha256(json.dumps(content, default=list).encode()).hexdigest()[:32]


def traces(home: Path, texts: Iterable[str] = ERASED_TEXTS) -> list[str]:
    """Return the files of a home in which one of these texts stands, in its bytes or in what they decode to."""
    wanted = [text.encode() for text in texts]
    found = []
    for path in sorted(path for path in (home / "lake").rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            content += repr(pq.read_table(path, partitioning=None).to_pylist()).encode()
        if any(text in content for text in wanted):
            found.append(str(path.relative_to(home)))
    return found


# -- how the archive was made: with the code of then -----------------------------------------------------------------


def _value(number: int, patient: str, **changes: Any) -> bytes:
    from tests.fhir import message

    at = BEGIN + timedelta(seconds=number)
    elements = {
        "identifier": [{"system": "urn:oid:2.16.840.1.113883.19", "value": f"value-{number}"}],
        "encounter": {"reference": f"Encounter/e-{patient[::-1]}"},
        "device": {"reference": f"Device/monitor-{number % 3}"},
        "effectiveDateTime": at.isoformat(),
        "issued": at.isoformat(),
    }
    return message(number, patient=patient, **(elements | changes))


def _panel(number: int, patient: str) -> bytes:
    def component(code: str, value: float) -> dict[str, Any]:
        quantity = {"value": value, "system": "http://unitsofmeasure.org", "code": "mm[Hg]"}
        return {"code": {"coding": [{"system": "http://loinc.org", "code": code}]}, "valueQuantity": quantity}

    return _value(
        number, patient,
        code={"coding": [{"system": "http://loinc.org", "code": "85354-9"}]},
        valueQuantity=None,
        component=[component("8480-6", 110.0 + number % 20), component("8462-4", 60.0 + number % 20)],
    )  # fmt: skip


def _messages() -> list[list[bytes]]:
    chance = random.Random(11)
    first = [_value(number, chance.choice(PATIENTS), value=60.0 + number) for number in range(80)]
    panels = [_panel(number, chance.choice(PATIENTS)) for number in range(80, 100)]
    second = [
        *panels,
        _value(3, PATIENTS[0], value=91.0),
        _value(100, PATIENTS[1], value=70.0),
        _value(100, PATIENTS[1], value=71.0, status="corrected", meta={"versionId": "2"}),
        _value(101, PATIENTS[2], value=72.0),
        _value(101, PATIENTS[2], status="entered-in-error", meta={"versionId": "2"}),
        _value(102, PATIENTS[3], value=73.0),
        _value(102, PATIENTS[3], value=73.0),
    ]
    bad = [
        _value(110, PATIENTS[4], value=9_999.0), _value(111, ERASED, value=9_998.0), b"{",
        b'{"resourceType": "Patient"}',
        _value(112, PATIENTS[5], code={"coding": [{"system": "urn:own", "code": "x"}]}),
    ]  # fmt: skip
    theirs = [_value(number, ERASED, value=50.0 + number - 120) for number in range(120, 126)]
    return [first, second + bad, theirs]


_WAREHOUSE = """
CREATE TABLE person (no VARCHAR, sex VARCHAR, name VARCHAR, mrn VARCHAR, address VARCHAR, born DATE, known TIMESTAMP,
    revision BIGINT);
CREATE TABLE stay (no VARCHAR, person VARCHAR, came TIMESTAMP, went TIMESTAMP, how VARCHAR, ended VARCHAR, born DATE);
CREATE TABLE move (stay VARCHAR, person VARCHAR, came TIMESTAMP, went TIMESTAMP, unit VARCHAR, category VARCHAR);
CREATE TABLE diagnosis (stay VARCHAR, person VARCHAR, code VARCHAR, is_primary BOOLEAN, coded TIMESTAMP);
CREATE TABLE result (name VARCHAR, person VARCHAR, stay VARCHAR, code VARCHAR, value DOUBLE, unit VARCHAR,
    taken TIMESTAMP);
"""

_QUERIES = {
    "encounter": "SELECT no AS encounter_id, 1 AS version, person AS patient_id, came AS admitted_at, "
    "went AS discharged_at, how AS admission_type, ended AS discharge_disposition, born AS birth_date, "
    "coalesce(went, came) AS available_at FROM stay ORDER BY no",
    "ward_movement": "SELECT stay AS encounter_id, 1 AS version, person AS patient_id, came AS in_at, went AS out_at, "
    "unit, category AS unit_category, coalesce(went, came) AS available_at FROM move ORDER BY stay, came",
    "patient": "SELECT no AS patient_id, revision AS version, sex, name, mrn, address, born AS birth_date, "
    "known AS available_at FROM person ORDER BY no",
    "condition": "SELECT stay AS encounter_id, 'ICD10CM' AS code_system, code, 1 AS version, person AS patient_id, "
    "is_primary, coded AS recorded_at, coded AS available_at FROM diagnosis ORDER BY stay, code",
    "observation": "SELECT 'urn:laboratory' AS identity_system, name AS identity_value, person AS patient_id, "
    "stay AS encounter_id, code, value, unit, 'final' AS status, taken AS effective_at "
    "FROM result ORDER BY person, taken",
}
_JOB = "source: city\nwarehouse: duckdb:city.duckdb\nincarnation: SELECT '1'\nmax_rejected: 1.0\ndatasets:\n"


def _make_warehouse(home: Path) -> None:
    import duckdb

    chance = random.Random(17)
    with duckdb.connect(str(home / "city.duckdb")) as db:
        db.execute(_WAREHOUSE)
        for patient in PATIENTS:
            texts = (
                ERASED_TEXTS[1:]
                if patient == ERASED
                else (f"Family{patient[-4:]}", f"MRN-{patient[::-1]}", f"{chance.randrange(99)} Long Street")
            )
            born = datetime(1930, 1, 1) + timedelta(days=chance.randrange(20_000))  # noqa: DTZ001 - as warehouses do
            came = BEGIN.replace(tzinfo=None) - timedelta(hours=chance.randrange(1, 12))
            went = came + timedelta(hours=chance.randrange(1, 30)) if chance.random() < 0.7 else None
            sex, stay = chance.choice(["female", "male"]), f"e-{patient[::-1]}"
            db.execute("INSERT INTO person VALUES (?, ?, ?, ?, ?, ?, ?, 1)", [patient, sex, *texts, born, came])
            ended = chance.choice(["Home", "Expired"]) if went else None
            db.execute("INSERT INTO stay VALUES (?, ?, ?, ?, ?, ?, ?)", [stay, patient, came, went, "ew", ended, born])
            db.execute("INSERT INTO move VALUES (?, ?, ?, ?, 'Ward 7', 'ward')", [stay, patient, came, went])
            for code in chance.sample(["I10", "E119", "N179", "J189"], 2):
                # Coded at noon, all of them: what decides their order is the number of the stay.
                noon = BEGIN.replace(tzinfo=None) + timedelta(hours=2)
                db.execute("INSERT INTO diagnosis VALUES (?, ?, ?, ?, ?)", [stay, patient, code, code == "I10", noon])
            for number in range(3):
                taken = BEGIN.replace(tzinfo=None) + timedelta(minutes=chance.randrange(60))
                row = [f"r-{chance.randrange(10**9)}-{number}", patient, stay, "2823-3", 3.0 + chance.random(), taken]
                db.execute("INSERT INTO result VALUES (?, ?, ?, ?, ?, 'mmol/L', ?)", row)
    for dataset, query in _QUERIES.items():
        (home / f"{dataset}.sql").write_text(query + "\n")
    (home / "city.yaml").write_text(_JOB + "".join(f"  {dataset}: {dataset}.sql\n" for dataset in _QUERIES))


def _load(home: Path) -> int:
    from pipelines.history.load import load_history
    from vitalake.settings import load_settings

    return load_history(load_settings(home), str(home / "city.yaml"))


def _change_warehouse(home: Path) -> None:
    import duckdb

    with duckdb.connect(str(home / "city.duckdb")) as db:
        db.execute("UPDATE person SET revision = 2, known = known + INTERVAL 1 HOUR WHERE no IN (?, ?)", PATIENTS[:2])
        db.execute("UPDATE result SET value = value + 1 WHERE person = ?", [PATIENTS[3]])


def _fill(home: Path) -> None:
    from tests.attribution import Ward, hl7_time, pid, pv1
    from tests.hl7 import adt
    from vitalake.lake.commits.lake import Lake
    from vitalake.lake.maintenance.compaction import put_into_buckets

    ward = Ward(home, begin=BEGIN)
    for messages in _messages():
        ward.stream(messages)
    ward.associate("bed-1", PATIENTS[10], 0)
    ward.stream([ward.bed(second) for second in range(20)])
    ward.associate("bed-1", PATIENTS[11], 10)
    ward.attribute()
    ward.stream([ward.bed(second, "bed-9") for second in range(200, 204)])  # nobody's: held
    one = "ICU^1^2"
    ward.tell(
        adt("A01", pid(PATIENTS[12]), pv1(one, visit="V-12", began=ward.at(0)), at=hl7_time(ward.at(0))),
        adt("A02", pid(PATIENTS[13]), pv1("ICU^1^3", one, visit="V-13"), at=hl7_time(ward.at(5))),
    )
    ward.stream([ward.oru(second, one) for second in range(300, 306)], name="hl7-v2")
    ward.attribute()
    _make_warehouse(home)
    _load(home)
    put_into_buckets(Lake(str(home / "lake"), {}).published, count=4, closed_before="2025-06-02")
    _change_warehouse(home)
    _load(home)


def _command(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "vitalake", *arguments], check=True, stdout=subprocess.DEVNULL)


def make(archive: Path) -> None:
    """Make an archive, and beside it what it reads."""
    from governance.home import init_home
    from governance.policy.masks import Pseudonyms
    from governance.samples import copy_samples
    from vitalake.keys import load_keys

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        init_home(home, copy_samples)
        _fill(home)
        token = Pseudonyms(load_keys(home / "keys.yaml"), "patient-identifier").token(ERASED)
        _command("patient", "erase", ERASED, "--reason", "request 17", "--yes", "--home", str(home))
        _command("patient", "hold", PATIENTS[20], "--reason", "request 18", "--home", str(home))
        _command("sql", "SELECT count(*) FROM observation", "--home", str(home))
        killed = subprocess.run(
            [sys.executable, "-m", "tests.frozen", "pending", str(home)],
            env=os.environ | {"VITALAKE_CRASH_AT": "decided"}, check=False,
        )  # fmt: skip
        assert killed.returncode == -signal.SIGKILL
        with tarfile.open(archive, "w:xz", preset=9) as packed:
            packed.add(home, "home", filter=_nobodys)
        document = {"lies": reading(home), "erased": [*ERASED_TEXTS, token]}
        settle(home)
        document["settled"] = reading(home)
        assert not traces(home, document["erased"])
    archive.with_name(archive.name.partition(".")[0] + ".json").write_text(json.dumps(document, indent=1) + "\n")


def _nobodys(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def _decide(home: Path) -> None:
    from tests.attribution import Ward

    sent = SENT - PENDING
    Ward(home, begin=BEGIN, sent=sent).stream(
        [_value(400 + number, PATIENTS[30 + number], value=80.0 + number) for number in range(PENDING)]
    )


if __name__ == "__main__":
    {"make": make, "pending": _decide}[sys.argv[1]](Path(sys.argv[2]))
