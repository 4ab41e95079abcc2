"""Queries over identified rows: refused by default, sealed in the sandbox, recorded, impossible without the keys."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from governance.access import MissingPermission, Principal, local_privacy_officer
from governance.belonging import open_vault
from governance.erasure.reasons import named_by
from governance.keyservice import KeyRevoked, open_key_service
from governance.policy.masks import Pseudonyms
from governance.query.errors import QueryFailed, QueryRefused
from governance.query.restricted import RestrictedQueryService
from governance.query.sandbox import Ended, run
from governance.query.service import QueryService
from governance.query.sql import check
from governance.query.worker import Head, Request
from governance.vault import Identity, Vault
from pipelines.intake.steps import make_sealer
from tests.unit.governance.query.query_samples import CLINICIAN, NOON, OFFICER, Recorder, observation, publish_samples
from vitalake.cli.app import main
from vitalake.errors import InputError, PrivacyError, ServiceUnavailable, VitaLakeError
from vitalake.keys import KeyRing, load_keys
from vitalake.lake.datasets.dataset import restricted_form
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.tables.storage import open_storage
from vitalake.lake.tables.table import Table
from vitalake.settings import Settings, load_settings

pytestmark = pytest.mark.slow

GUARD = Principal("guard", "privacy-officer", "Privacy officer")
PURPOSE = "breach-2026-11"
SECRETS = ("ZZMRN", "Zzname", "ZZSTAY", "ZZDEVICE", "zztext")
"""What no byte of the sandbox's answer, of the audit or of an error may hold."""


@pytest.fixture
def settings(home: Path) -> Settings:
    return load_settings(home)


@pytest.fixture
def keys(settings: Settings) -> KeyRing:
    return load_keys(settings.path(settings.keys))


@pytest.fixture
def vault(settings: Settings, keys: KeyRing) -> Iterator[Vault]:
    vault = open_vault(settings, keys)
    yield vault
    vault.close()


@pytest.fixture
def audit() -> Recorder:
    return Recorder()


@pytest.fixture
def service(settings: Settings, keys: KeyRing, audit: Recorder, vault: Vault) -> RestrictedQueryService:
    """A query service of a lake with identified rows of two patients."""
    one, two = (identified(i, f"ZZMRN-{i}") for i in (1, 2))
    keep(settings, vault, keys, "observation", [one, two, {**one, "version": 2, "value": 99.0}])
    keep(settings, vault, keys, "observation", [identified(3, "ZZMRN-1", status="entered-in-error", value_text=None)])
    who = {"version": 1, "name": "Zzname, Zzgiven", "mrn": "ZZMRN-1", "birth_date": date(1958, 3, 9)}
    keep(settings, vault, keys, "patient", [{**who, "patient_id": "ZZMRN-1"}])
    return RestrictedQueryService(settings, keys, audit=audit, named_by=named_by)


def identified(number: int, patient: str, **other: Any) -> dict[str, Any]:
    """Return a row as it came, of a stay and a device."""
    row = observation(number, 70.0 + number)
    return {
        **row, "patient_id": patient, "encounter_id": f"ZZSTAY-{number}", "device_id": "ZZDEVICE",
        "value_text": "zztext of the night", **other,
    }  # fmt: skip


def keep(settings: Settings, vault: Vault, keys: KeyRing, dataset: str, rows: list[dict[str, Any]]) -> None:
    """Add rows to a restricted table, sealed by a process that has sealed nothing before."""
    declared = load_dataset(dataset)
    columns = {c.name: pa.array([row.get(c.name) for row in rows], c.type) for c in declared.columns}
    batch = pa.RecordBatch.from_arrays(list(columns.values()), schema=declared.schema)
    sealed, _ = make_sealer(declared, vault, keys).seal(batch)
    table = Table(restricted_form(declared), open_storage(settings.lake_uri, {}), zone="restricted")
    number = table.delta.version()
    staged = table.stage(pa.Table.from_batches([sealed]), stem=f"part-{number}")
    table.commit(add=staged, transactions={"samples": number})


def ask(service: RestrictedQueryService, sql: str, **changes: Any) -> list[dict[str, Any]]:
    """Ask as the privacy officer."""
    answer = service.identify(sql, **{"principal": GUARD, "purpose": PURPOSE, **changes})
    rows: list[dict[str, Any]] = answer.rows.to_pylist()
    return rows


def token(keys: KeyRing, patient: str) -> str:
    pseudonym: str = Pseudonyms(keys, "patient-identifier")(pa.array([patient]))[0].as_py()
    return pseudonym


SELECT = "SELECT patient_id, encounter_id, value, value_text FROM restricted_observation ORDER BY value"


# -- closed by default


@pytest.mark.parametrize("principal", [OFFICER, CLINICIAN, Principal("e", "engineer", "Engineer")])
def test_no_role_but_the_privacy_officers_may(
    service: RestrictedQueryService, audit: Recorder, principal: Principal
) -> None:
    with pytest.raises(MissingPermission, match="privacy-officer"):
        ask(service, SELECT, principal=principal)
    (event,) = audit.events
    assert (event.action, event.detail) == ("denied", {"permission": "identified:query"})


@pytest.mark.parametrize("name", ["restricted_observation", "restricted_observation_versions"])
def test_identified_rows_are_unknown_to_every_other_query(service: RestrictedQueryService, name: str) -> None:
    with pytest.raises(QueryRefused, match="no such dataset"):
        service.query(f"SELECT * FROM {name}", principal=GUARD)  # noqa: S608
    with pytest.raises(QueryRefused):
        service.query("SELECT * FROM restricted_observation_as_known_at('2026-03-01')", principal=GUARD)
    with pytest.raises(InputError, match="No such dataset"):
        service.read("restricted_patient_", columns=["version"], principal=GUARD, purpose="x")


@pytest.mark.parametrize("purpose", ["", "no", "x" * 81, "why\nnot", "because; 'x'", "v1." + "a" * 32 + "!"])
def test_without_a_purpose_that_can_be_recorded_nothing_is_answered(
    service: RestrictedQueryService, audit: Recorder, purpose: str
) -> None:
    with pytest.raises(InputError, match="Purpose"):
        ask(service, SELECT, purpose=purpose)
    assert audit.events == []


@pytest.mark.parametrize(
    "purpose", ["complaint of Zzgiven Zzname", "about zzmrn-1", "record ZZRECORD-1", "case 7, zzrecord-1, part 2"]
)
def test_a_purpose_that_names_a_patient_is_refused_and_not_kept(
    service: RestrictedQueryService, audit: Recorder, vault: Vault, keys: KeyRing, purpose: str
) -> None:
    """The audit keeps the purpose for ever: no erasure deletes it."""
    vault.put([(token(keys, "ZZMRN-1"), 2, Identity("ZZMRN-1", "Zzname, Zzgiven", "ZZRECORD-1", None, None))])
    with pytest.raises(InputError, match=r"Purpose holds .* of a patient: --purpose"):
        ask(service, SELECT, purpose=purpose)
    (event,) = audit.events
    assert (event.action, event.patients) == ("denied", (token(keys, "ZZMRN-1"),))
    assert event.detail == {"permission": "identified:query", "reason": "names"}


def test_accounts_are_privacy_officers_only_where_the_configuration_says_so() -> None:
    account = pwd.getpwuid(os.getuid()).pw_name
    assert local_privacy_officer(Settings(doubt="")).role == "officer"
    assert local_privacy_officer(Settings(privacy_officers=[account + "x"], doubt="")).role == "officer"
    assert local_privacy_officer(Settings(privacy_officers=[account], doubt="")).role == "privacy-officer"


def test_who_could_have_named_themselves_is_refused_and_told_why(
    service: RestrictedQueryService, audit: Recorder
) -> None:
    account = pwd.getpwuid(os.getuid()).pw_name
    somebody = local_privacy_officer(Settings(privacy_officers=[account], doubt="root can write it"))
    with pytest.raises(MissingPermission, match=r"written it yourself, so it is ignored: root can write it"):
        ask(service, SELECT, principal=somebody)
    assert audit.events[0].detail == {"permission": "identified:query"}


# -- answers


def test_cells_are_opened_and_whom_the_answer_is_about_is_on_record(
    service: RestrictedQueryService, audit: Recorder, keys: KeyRing
) -> None:
    assert ask(service, SELECT) == [
        {"patient_id": "ZZMRN-2", "encounter_id": "ZZSTAY-2", "value": 72.0, "value_text": "zztext of the night"},
        {"patient_id": "ZZMRN-1", "encounter_id": "ZZSTAY-1", "value": 99.0, "value_text": "zztext of the night"},
    ]
    (event,) = audit.events
    assert (event.action, event.actor, event.role) == ("identified.query", "guard", "privacy-officer")
    assert set(event.patients) == {token(keys, "ZZMRN-1"), token(keys, "ZZMRN-2")}
    assert event.detail["purpose"] == PURPOSE
    assert event.detail["rows"] == "2"
    assert not [secret for secret in SECRETS if secret in str(event)]


def test_a_cell_opens_whatever_it_is_called_and_wherever_it_went(
    service: RestrictedQueryService, keys: KeyRing
) -> None:
    sql = """SELECT count(*) AS n, any_value(o.patient_id) AS who, any_value(o.encounter_id) AS stay,
        arg_max(p.birth_date, value) AS born, any_value(p.name) AS name
        FROM restricted_observation AS o JOIN restricted_patient AS p USING (subject)"""
    assert ask(service, sql) == [
        {"n": 1, "who": "ZZMRN-1", "stay": "ZZSTAY-1", "born": date(1958, 3, 9), "name": "Zzname, Zzgiven"}
    ]
    mixed = ask(service, "SELECT name AS x FROM restricted_patient UNION ALL SELECT birth_date FROM restricted_patient")
    assert {row["x"] for row in mixed} == {"Zzname, Zzgiven", "1958-03-09"}


def test_rows_without_a_sealed_cell_name_their_patients_by_subject(
    service: RestrictedQueryService, audit: Recorder, vault: Vault, keys: KeyRing
) -> None:
    rows = ask(service, "SELECT subject, value FROM restricted_observation WHERE value = 72")
    assert rows == [{"subject": vault.subject_of("ZZMRN-2"), "value": 72.0}]
    assert audit.events[-1].patients == (token(keys, "ZZMRN-2"),)
    assert ask(service, "SELECT count(*) AS n FROM restricted_observation_versions WHERE value > 71.5") == [{"n": 3}]
    assert audit.events[-1].patients == tuple(sorted(token(keys, name) for name in ("ZZMRN-1", "ZZMRN-2")))


RESTING: dict[str, tuple[str, ...]] = {
    "SELECT value FROM restricted_observation WHERE value > 90": ("1",),
    "SELECT hex(subject) AS s FROM restricted_patient": ("1",),
    "SELECT name IS NULL AS n FROM restricted_patient": ("1",),
    "SELECT max(value) AS m FROM restricted_observation WHERE value < 90": ("2",),
    "SELECT unit FROM restricted_observation GROUP BY ALL HAVING count(*) > 5": ("1", "2"),
    "SELECT row_number() OVER () AS n FROM restricted_observation WHERE value < 90": ("2",),
    "SELECT 1 AS one WHERE EXISTS (SELECT 1 FROM restricted_patient)": ("1",),
    "SELECT value FROM restricted_observation ORDER BY value LIMIT 1": ("2",),
    "SELECT value FROM restricted_observation WHERE value > 1000": (),
    "SELECT 1 AS one FROM restricted_observation LIMIT 0": (),
    "SELECT code FROM restricted_observation_as_known_at('2026-03-01 12:01:30')": ("1",),
    "SELECT 1 AS one FROM restricted_observation OFFSET 5": ("1", "2"),
    "SELECT a.n FROM (SELECT 1 AS n) a LEFT JOIN restricted_observation o ON o.value > 1000": ("1", "2"),
    "SELECT a.n FROM restricted_observation o RIGHT JOIN (SELECT 1 AS n) a ON o.value > 1000": ("1", "2"),
    "SELECT a.n FROM (SELECT 1 AS n) a FULL JOIN restricted_observation o ON a.n = o.value": ("1", "2"),
    "SELECT 1 AS one EXCEPT SELECT 1 FROM restricted_observation WHERE value > 1000": ("1", "2"),
    "SELECT unit FROM restricted_observation GROUP BY unit, value ORDER BY count(*), value LIMIT 1": ("1", "2"),
    "SELECT n FROM (SELECT value AS n FROM restricted_observation ORDER BY n LIMIT 1) WHERE n > 90": ("1", "2"),
    "SELECT 'x' AS x FROM (SELECT max(value) AS m FROM restricted_observation) b WHERE b.m > 1000": ("1", "2"),
}
"""Query → the patients whose rows its answer uses; no cell of the answers names them."""


def test_everybody_whose_rows_an_answer_rests_on_is_on_record(
    service: RestrictedQueryService, audit: Recorder, keys: KeyRing
) -> None:
    for sql, numbers in RESTING.items():
        ask(service, sql)
        assert audit.events[-1].patients == tuple(sorted(token(keys, f"ZZMRN-{i}") for i in numbers)), sql


NOTHING = [
    "SELECT value FROM restricted_observation WHERE {} AND value > 1000",
    "SELECT count(*) AS n FROM restricted_observation WHERE {} AND value > 1000",
    "SELECT 1 AS one WHERE NOT EXISTS (SELECT 1 FROM restricted_observation WHERE {} AND value > 1000)",
    "SELECT (SELECT max(value) FROM restricted_observation WHERE {} AND value > 1000) IS NULL AS n",
    "SELECT 1 AS one FROM (SELECT subject, value FROM restricted_observation) AS t WHERE {} AND value > 1000",
    "SELECT count(*) FILTER (WHERE {} AND value > 1000) AS n FROM restricted_observation WHERE value > 1000",
]
"""Queries about a patient that find no row; even that says something about the patient."""


def test_whom_a_question_names_is_on_record_though_nothing_is_found(
    service: RestrictedQueryService, audit: Recorder, vault: Vault, keys: KeyRing
) -> None:
    subject = vault.subject_of("ZZMRN-1")
    escaped = "".join(f"\\x{byte:02x}" for byte in subject)
    for named in (
        f"hex(subject) = '{subject.hex().upper()}'",
        f"'{subject.hex()}' = lower(hex((subject)))",
        f"subject = '{escaped}'",
        f"hex(subject) IN ('{subject.hex().upper()}', '{'0' * 32}')",
    ):
        for question in NOTHING if escaped in named else NOTHING[:1]:
            ask(service, question.format(named))
            assert audit.events[-1].patients == (token(keys, "ZZMRN-1"),), (question, named)
    digits = "".join(f"\\x{ord(digit):02x}" for digit in subject.hex().upper())
    mixed = "SELECT subject AS s FROM restricted_observation UNION ALL SELECT hex(subject) FROM restricted_observation"
    ask(service, f"SELECT 1 AS one FROM ({mixed}) AS t WHERE s = '{digits}'", patient="ZZMRN-2")  # noqa: S608
    assert token(keys, "ZZMRN-1") in audit.events[-1].patients, "digits beside bytes are bytes, and may be written so"
    with pytest.raises(QueryFailed):
        by_bytes = f"hex(subject) = '{subject.hex().upper()}'"
        ask(service, f"SELECT sum(unit) AS n FROM restricted_observation WHERE {by_bytes}")  # noqa: S608
    assert audit.events[-1].patients == (token(keys, "ZZMRN-1"),)


def test_a_whole_row_that_comes_out_of_the_sandbox_is_not_opened(
    service: RestrictedQueryService, audit: Recorder, keys: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the check of the query lets it through."""
    monkeypatch.setattr("governance.query.naming.constants", lambda *_, **__: frozenset())
    with pytest.raises(QueryRefused, match="a whole row"):
        ask(service, "SELECT p FROM restricted_patient p", patient="ZZMRN-1")
    assert (audit.events[-1].detail["outcome"], audit.events[-1].patients) == ("untold", (token(keys, "ZZMRN-1"),))


UNREAD = [
    "SELECT (CAST(CASE WHEN value > 90 THEN 'x' ELSE '1' END AS INTEGER), 1) AS a FROM restricted_observation p",
    """SELECT row_number() OVER () AS n, (CAST(CASE WHEN value > 90 THEN 'x' ELSE '1' END AS INTEGER), 1) AS a
        FROM restricted_observation p""",
    """SELECT (SELECT max(CAST(CASE WHEN q.value > 90 THEN 'x' ELSE '1' END AS INTEGER)) FROM restricted_observation q
        WHERE q.subject = p.subject) AS a FROM restricted_observation p""",
]
"""Queries that are refused by their form. One row is above 90, so that they fail with a cast error if they read it."""


@pytest.mark.parametrize("sql", UNREAD)
def test_what_is_refused_by_its_form_is_refused_before_a_row_is_read(
    service: RestrictedQueryService, audit: Recorder, sql: str
) -> None:
    with pytest.raises(QueryRefused, match=r"a whole row|correlated subquery"):
        ask(service, sql)
    assert [(event.detail.get("outcome", "untold"), event.patients) for event in audit.events] == [("untold", ())]


def test_a_refusal_after_rows_were_read_names_everybody_who_could_be_read(
    service: RestrictedQueryService, audit: Recorder, keys: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the sandbox lets such a query through."""

    def careless(request: Request) -> tuple[Head, pa.Table | None]:
        return run(msgspec.structs.replace(request, side_queries=None))

    monkeypatch.setattr("governance.query.sandbox.run", careless)
    everybody = tuple(sorted(token(keys, f"ZZMRN-{i}") for i in (1, 2)))
    for sql in UNREAD:
        with pytest.raises((QueryRefused, QueryFailed)):
            ask(service, sql.replace("90", "99"))
        assert (audit.events[-1].detail["outcome"], audit.events[-1].patients) == ("untold", everybody), sql


def test_the_id_of_a_row_names_its_patient(service: RestrictedQueryService, audit: Recorder, keys: KeyRing) -> None:
    (row,) = ask(service, "SELECT hex(observation_id) AS id FROM restricted_observation WHERE value = 72")
    for question in ("SELECT value", "SELECT rank() OVER (ORDER BY value) AS v"):
        sql = f"{question} FROM restricted_observation WHERE hex(observation_id) = '{row['id']}' AND value > 1000"
        assert ask(service, sql) == []
        assert audit.events[-1].patients == (token(keys, "ZZMRN-2"),)
    with pytest.raises(QueryRefused, match="identifying column"):
        ask(service, f"SELECT value FROM restricted_observation WHERE hex(observation_id) LIKE '{row['id'][:9]}%'")  # noqa: S608


def test_a_pseudonym_or_a_number_names_somebody_too(
    service: RestrictedQueryService, audit: Recorder, settings: Settings, vault: Vault, keys: KeyRing
) -> None:
    publish_samples(settings.lake_uri)
    one, nobody = token(keys, "ZZMRN-1"), "v1." + "c" * 32
    vault.put([(one, 1, Identity("ZZMRN-1", None, "ZZNUMBER", None))])
    sql = """SELECT r.value FROM observation AS p JOIN restricted_observation AS r USING (observation_id)
        WHERE p.patient_id = '{}' AND r.value > 1000"""
    for given, recorded in ((one, (one,)), (nobody, (nobody,)), ("ZZMRN-1", (one,)), ("ZZNUMBER", (one,)), ("x", ())):
        assert ask(service, sql.format(given)) == []
        assert audit.events[-1].patients == recorded, given
    for given, recorded in ((one, (one,)), (nobody, (nobody,))):
        ask(service, sql.format(given.upper()).replace("p.patient_id", "upper(p.patient_id)"))
        assert audit.events[-1].patients == recorded
    with pytest.raises(QueryRefused, match="hex"):
        ask(service, sql.format(one.encode().hex().upper()).replace("p.patient_id", "hex(p.patient_id)"))


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("SELECT 1 AS one FROM restricted_patient WHERE hex(subject) LIKE 'A%'", "a condition on"),
        ("SELECT CAST(name AS VARCHAR) AS n FROM restricted_patient", "calculation with, an identifying column"),
        ("SELECT 1 AS one FROM restricted_patient WHERE hex(hex(subject)) = '4142' AND version = 7", "hex"),
        (
            "SELECT 1 AS one FROM (SELECT subject AS s, version FROM restricted_patient WHERE false UNION ALL "
            "SELECT hex(subject), version FROM restricted_patient) t WHERE hex(t.s) = '4142' AND t.version = 7",
            "hex",
        ),
        ("SELECT p FROM restricted_patient p", "a whole row"),
        ("SELECT max(p) AS p FROM (SELECT name, version FROM restricted_patient) AS p", "a whole row"),
        (
            "SELECT value FROM restricted_observation o "
            "WHERE EXISTS (SELECT 1 FROM restricted_patient p WHERE p.subject = o.subject)",
            "correlated subquery",
        ),
        ("SELECT value AS who__ FROM restricted_observation", "name that begins with who__"),
        ("(SELECT 1 AS one) LIMIT (SELECT count(*) FROM restricted_observation)", "not a number"),
        ("SELECT 1 AS one LIMIT (SELECT 9223372036854775807 FROM restricted_patient)", "not a number"),
        ("SELECT 1 AS one OFFSET (SELECT count(*) FROM restricted_patient)", "not a number"),
        ("SELECT 1 AS a UNION ALL SELECT 2 ORDER BY (SELECT count(*) FROM restricted_patient)", "cannot be followed"),
    ],
)
def test_a_form_whose_patients_cannot_be_known_is_refused_and_recorded(
    service: RestrictedQueryService, audit: Recorder, sql: str, why: str
) -> None:
    with pytest.raises(QueryRefused, match=why):
        ask(service, sql)
    assert audit.events[-1].detail.get("outcome", "untold") == "untold"
    assert len(audit.events) == 1


def test_asking_for_a_patient_is_on_record_also_when_nothing_is_found_or_it_fails(
    service: RestrictedQueryService, audit: Recorder, keys: KeyRing
) -> None:
    assert ask(service, "SELECT value FROM restricted_observation WHERE value > 1000", patient="ZZMRN-1") == []
    assert audit.events[-1].patients == (token(keys, "ZZMRN-1"),)
    with pytest.raises(QueryFailed):
        ask(service, "SELECT sum(unit) AS n FROM restricted_observation", patient="ZZMRN-1")
    assert audit.events[-1].patients == (token(keys, "ZZMRN-1"),)
    with pytest.raises(InputError, match="No patient is known by this"):
        ask(service, SELECT, patient="never-seen")
    assert (audit.events[-1].patients, audit.events[-1].detail["outcome"]) == ((token(keys, "never-seen"),), "nobody")
    with pytest.raises(InputError, match="No patient is known by this"):
        ask(service, SELECT, patient="v1." + "b" * 32)
    assert (audit.events[-1].patients, audit.events[-1].detail["outcome"]) == (("v1." + "b" * 32,), "nobody")


def test_a_failure_that_depends_on_values_names_everybody_who_could_be_read(
    service: RestrictedQueryService, audit: Recorder, keys: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = tuple(sorted(token(keys, f"ZZMRN-{i}") for i in (1, 2)))
    told = "SELECT CAST(CASE WHEN value > 90 THEN 'x' ELSE '1' END AS INTEGER) AS x FROM restricted_observation"
    with pytest.raises(QueryFailed, match="cannot be answered"):
        ask(service, told)
    assert audit.events[-1].patients == both
    with pytest.raises(QueryFailed):  # of nobody
        ask(service, "SELECT CAST('x' AS INTEGER) AS x")
    assert audit.events[-1].patients == ()
    monkeypatch.setattr("governance.query.tracked_run.MOST_PATIENTS", 1)
    with pytest.raises(QueryFailed, match="cannot be answered"):
        ask(service, told)
    assert audit.events[-1].detail["patients"] == "not all"
    with pytest.raises(QueryFailed, match="more patients than one query may read"):
        ask(service, "SELECT row_number() OVER () AS n FROM restricted_observation")
    assert audit.events[-1].detail["outcome"] == "untold"


ONLY_ASIDE = "SELECT n FROM (SELECT count(*) OVER () AS n FROM restricted_observation WHERE CONDITION) AS t WHERE false"
"""DuckDB optimises the window away, and with it the condition; the side query still evaluates it."""


def test_that_it_cannot_be_told_whose_rows_it_rests_on_names_everybody_who_could_be_read(
    service: RestrictedQueryService, audit: Recorder, keys: KeyRing
) -> None:
    fails = "CAST(CASE WHEN value > 90 THEN 'x' ELSE '1' END AS INTEGER) = 1"
    with pytest.raises(QueryFailed, match="does not fit the type"):
        ask(service, ONLY_ASIDE.replace("CONDITION", fails))
    (event,) = audit.events
    assert (event.detail["outcome"], event.detail["rows"]) == ("untold", "0")
    assert event.patients == tuple(sorted(token(keys, f"ZZMRN-{i}") for i in (1, 2)))


@pytest.mark.parametrize("ends", [{1}, {2}, {1, 2}])
@pytest.mark.parametrize("how", ["time", "ended"])
def test_a_sandbox_that_is_ended_names_everybody_who_could_be_read(
    service: RestrictedQueryService,
    audit: Recorder,
    keys: KeyRing,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    ends: set[int],
) -> None:
    """Whether the query or its side query ends; if then the patients cannot be determined, the record says so."""
    asked: list[str] = []

    def ending(request: Request) -> tuple[Head, pa.Table | None]:
        asked.append(request.sql)
        if len(asked) not in ends:
            return run(request)
        if how == "ended":
            raise Ended
        return Head(failed="time"), None

    monkeypatch.setattr("governance.query.sandbox.run", ending)
    with pytest.raises(
        VitaLakeError, match="operating system ended the query" if how == "ended" else "longer than a query may run"
    ):
        ask(service, "SELECT row_number() OVER () AS n FROM restricted_observation")
    (event,) = audit.events
    assert event.detail["outcome"] == ("ended" if how == "ended" else "time" if 1 in ends else "untold")
    everybody = tuple(sorted(token(keys, f"ZZMRN-{i}") for i in (1, 2)))
    assert event.patients == (() if ends == {1, 2} else everybody)
    assert event.detail.get("patients") == ("not all" if ends == {1, 2} else None)


LIMITED: dict[str, tuple[bool, tuple[str, ...]]] = {
    "SELECT 1 AS one UNION ALL SELECT 1 FROM restricted_observation WHERE value < 90": (False, ("2",)),
    "SELECT 1 AS one UNION ALL SELECT 1 FROM restricted_observation WHERE value > 1000": (True, ()),
    "SELECT value FROM restricted_observation ORDER BY value": (False, ("1", "2")),
    "SELECT value FROM restricted_observation WHERE value < 90": (True, ("2",)),
    "SELECT value, count(*) AS n FROM restricted_observation_versions GROUP BY value": (False, ("1", "2")),
}
"""Query of which one row is shown → whether that is all, and the patients whose rows both depend on."""


def test_that_an_answer_is_not_complete_rests_on_somebodys_row(
    service: RestrictedQueryService, audit: Recorder, keys: KeyRing
) -> None:
    for sql, (complete, numbers) in LIMITED.items():
        answer = service.identify(sql, principal=GUARD, purpose=PURPOSE, rows=1)
        assert (answer.rows.num_rows, answer.complete) == (1, complete), sql
        assert audit.events[-1].detail["rows"] == "1"
        assert audit.events[-1].patients == tuple(sorted(token(keys, f"ZZMRN-{i}") for i in numbers)), sql


def test_a_record_holds_columns_classes_and_rules_and_no_literal(
    service: RestrictedQueryService, audit: Recorder
) -> None:
    ask(service, "SELECT code, value FROM restricted_observation WHERE unit = 'ZZMRN'")
    detail = audit.events[-1].detail
    assert detail["columns"] == "restricted_observation(code,unit,value)"
    assert detail["classes"] == "measurement,measurement-code"
    assert detail["rules"] == service.catalogue.rules
    assert "ZZMRN" not in str(detail)
    for sql in ("SELECT * FROM restricted_patient", "SELECT count(*) FROM (SELECT p.* FROM restricted_patient p)"):
        ask(service, sql)
        assert audit.events[-1].detail["columns"] == "restricted_patient(all)"
        assert "patient-identifier" in audit.events[-1].detail["classes"]


@pytest.mark.parametrize("by_token", [True, False])
def test_one_patients_rows_are_found_by_pseudonym_or_by_the_sources_id(
    service: RestrictedQueryService, keys: KeyRing, audit: Recorder, by_token: bool
) -> None:
    patient = token(keys, "ZZMRN-1") if by_token else "ZZMRN-1"
    rows = ask(service, "SELECT DISTINCT patient_id FROM restricted_observation_versions", patient=patient)
    assert rows == [{"patient_id": "ZZMRN-1"}]
    assert audit.events[-1].detail["patient"] == "one"
    with pytest.raises(InputError, match="No patient is known by this") as caught:
        ask(service, SELECT, patient="v1." + "b" * 32)
    assert "bbbb" not in str(caught.value)


def test_one_patients_rows_are_found_by_the_record_number_too(
    service: RestrictedQueryService, audit: Recorder, vault: Vault, keys: KeyRing
) -> None:
    """If the patient were not found, it would look as if the lake held nothing about them."""
    vault.put([(token(keys, "ZZMRN-1"), 2, Identity("ZZMRN-1", "Zzname, Zzgiven", "ZZRECORD-1", None, None))])
    assert [row["value"] for row in ask(service, SELECT, patient="ZZRECORD-1")] == [99.0]
    assert audit.events[-1].patients == (token(keys, "ZZMRN-1"),)


def test_a_value_that_was_given_to_another_patient_is_not_the_first_ones_any_more(
    service: RestrictedQueryService, settings: Settings, vault: Vault, keys: KeyRing
) -> None:
    moved = identified(2, "ZZMRN-1", version=2, available_at=NOON + timedelta(hours=1))
    keep(settings, vault, keys, "observation", [moved])
    assert ask(service, SELECT, patient="ZZMRN-2") == []
    assert [row["value"] for row in ask(service, SELECT, patient="ZZMRN-1")] == [72.0, 99.0]
    versions = SELECT.replace("restricted_observation", "restricted_observation_versions")
    assert [row["value"] for row in ask(service, versions, patient="ZZMRN-2")] == [72.0]
    for patient, hour, found in (("ZZMRN-2", "12:30", [72.0]), ("ZZMRN-1", "12:30", []), ("ZZMRN-2", "13:00", [])):
        known = f"restricted_observation_as_known_at('2026-03-01 {hour}')"
        rows = ask(service, SELECT.replace("restricted_observation", known), patient=patient)
        assert [row["value"] for row in rows if row["value"] == 72.0] == found


def test_published_rows_can_be_asked_beside(service: RestrictedQueryService, settings: Settings) -> None:
    publish_samples(settings.lake_uri)
    sql = """SELECT r.patient_id, p.patient_id AS token FROM observation AS p
        JOIN restricted_observation AS r USING (observation_id) WHERE p.value = 71"""
    assert ask(service, sql) == [{"patient_id": "ZZMRN-1", "token": "v1." + "a" * 32}]


def test_versions_of_what_has_a_sealed_key_are_found(
    service: RestrictedQueryService, settings: Settings, vault: Vault, keys: KeyRing
) -> None:
    stay = {"encounter_id": "ZZSTAY-1", "patient_id": "ZZMRN-1", "admitted_at": NOON, "available_at": NOON}
    keep(settings, vault, keys, "encounter", [{**stay, "version": 1, "discharge_disposition": "Home"}])
    later = datetime(2026, 3, 5, tzinfo=UTC)
    keep(settings, vault, keys, "encounter", [{**stay, "version": 2, "available_at": later}])
    columns = "encounter_id, version, discharge_disposition"
    assert ask(service, f"SELECT {columns} FROM restricted_encounter") == [  # noqa: S608
        {"encounter_id": "ZZSTAY-1", "version": 2, "discharge_disposition": None}
    ]
    known = f"SELECT {columns} FROM restricted_encounter_as_known_at(TIMESTAMP '2026-03-02')"  # noqa: S608
    assert ask(service, known) == [{"encounter_id": "ZZSTAY-1", "version": 1, "discharge_disposition": "Home"}]


def test_what_was_never_kept_is_empty_not_an_error(service: RestrictedQueryService) -> None:
    assert ask(service, "SELECT * FROM restricted_condition") == []


# -- the sandbox


def test_the_sandbox_sees_and_says_sealed_cells_only(service: RestrictedQueryService) -> None:
    query = check(SELECT, service.catalogue.identified_names)
    with service.catalogue.relations(query.datasets, identified=True) as relations:
        request = Request(query.sql, relations, 10, 256, 10, 1 << 20)
        files = b"".join(Path(path).read_bytes() for relation in relations for path in relation.paths)
        head, table = run(request)
    assert head.rows == 2
    assert table is not None
    assert table.schema.field("patient_id").type == pa.struct({"sealed": pa.binary()})
    for data in (files, msgspec.json.encode(request), str(table.to_pylist()).encode()):
        assert not [secret for secret in SECRETS if secret.encode() in data]


def test_a_value_that_was_changed_in_its_file_is_refused(service: RestrictedQueryService, settings: Settings) -> None:
    """A sealed value that was moved to another column opens in neither."""
    form = restricted_form(load_dataset("patient"))
    table = Table(form, open_storage(settings.lake_uri, {}), zone="restricted")
    rows = table.scan()
    sealed = rows["name"].combine_chunks()[0].as_py()
    meddled = sealed[:-1] + bytes([sealed[-1] ^ 1])
    rows = rows.set_column(rows.schema.get_field_index("name"), "name", pa.array([meddled]))
    table.commit(add=table.stage(rows, stem="meddled"), transactions={"meddled": 1})
    with pytest.raises(PrivacyError, match="cannot be opened") as caught:
        ask(service, "SELECT name FROM restricted_patient_versions")
    assert not [secret for secret in SECRETS if secret in str(caught.value)]


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("SELECT * FROM restricted_observation WHERE patient_id = 'ZZMRN-1'", "cannot be answered"),
        ("SELECT * FROM restricted_observation WHERE patient_id LIKE 'ZZMRN%'", "cannot be answered"),
        ("SELECT name FROM restricted_patient UNION SELECT subject FROM restricted_patient", "cannot be answered"),
        ("SELECT CASE WHEN value > 1 THEN patient_id ELSE subject END FROM restricted_observation", "cannot be"),
        ("SELECT upper(patient_id) FROM restricted_observation", "cannot be answered"),
        ("SELECT CAST(patient_id AS TEXT) || 'x' FROM restricted_observation WHERE nothing = 1", "cannot be answered"),
    ],
)
def test_a_failure_is_recorded_and_quotes_nothing(
    service: RestrictedQueryService, audit: Recorder, sql: str, why: str
) -> None:
    with pytest.raises((QueryFailed, QueryRefused), match=f"{why}|identifying column") as caught:
        ask(service, sql)
    assert "ZZMRN" not in str(caught.value)
    assert audit.events[-1].detail.get("outcome", "refused") != "answered"


@pytest.mark.parametrize(
    "value", ["min(birth_date)", "max(birth_date)", "count(DISTINCT name)", "rank() OVER (ORDER BY birth_date)"]
)
def test_what_would_be_answered_by_sealed_bytes_is_refused_and_says_what_to_do(
    service: RestrictedQueryService, audit: Recorder, value: str
) -> None:
    with pytest.raises(QueryRefused, match=r"sealed .*Show the values, for example of one patient with --patient"):
        ask(service, f"SELECT {value} AS x FROM restricted_patient")  # noqa: S608
    assert audit.events[-1].detail == {"permission": "identified:query", "reason": "query"}


def test_which_columns_have_an_order_and_equal_values_is_said_by_their_classes(service: RestrictedQueryService) -> None:
    """Equal ids are sealed to equal bytes, so that they group and join; dates, names and texts are not."""
    assert ask(service, "SELECT encounter_id, count(*) AS n FROM restricted_observation GROUP BY ALL ORDER BY n")
    assert {"name", "birth_date"} <= {*service.catalogue.randomised("restricted_patient")}
    assert not {"patient_id", "mrn", "encounter_id"} & {*service.catalogue.randomised("restricted_patient")}


def test_a_column_that_is_not_known_is_refused_with_those_that_are(service: RestrictedQueryService) -> None:
    with pytest.raises(QueryRefused, match=r"a column is not known.*restricted_patient has subject, .*birth_date"):
        ask(service, "SELECT born FROM restricted_patient")


def test_what_would_be_made_of_a_sealed_value_is_refused(service: RestrictedQueryService) -> None:
    for made in ("patient_id || encounter_id", "CAST(device_id AS TEXT)", "hex(patient_id.sealed)"):
        with pytest.raises(QueryRefused, match="identifying column"):
            ask(service, f"SELECT {made} AS x FROM restricted_observation")  # noqa: S608


def test_what_is_not_on_the_list_is_refused_and_recorded(service: RestrictedQueryService, audit: Recorder) -> None:
    with pytest.raises(QueryRefused):
        ask(service, "SELECT * FROM read_parquet('x')")
    assert audit.events[-1].detail == {"permission": "identified:query", "reason": "query"}


# -- forgotten, locked, unrecorded


def test_the_cells_of_a_forgotten_patient_are_null(
    service: RestrictedQueryService, audit: Recorder, vault: Vault, keys: KeyRing
) -> None:
    vault.erase(vault.subject_of("ZZMRN-1"), "certificate")
    rows = ask(service, SELECT)
    assert rows[1] == {"patient_id": None, "encounter_id": None, "value": 99.0, "value_text": None}
    assert rows[0]["patient_id"] == "ZZMRN-2"
    assert audit.events[-1].patients == (token(keys, "ZZMRN-2"),)
    assert audit.events[-1].detail["without_pseudonym"] == "1"  # whose values are shown still, and nobody can name
    with pytest.raises(QueryFailed):
        ask(service, "SELECT CAST(code AS INTEGER) FROM restricted_observation")
    assert audit.events[-1].detail["without_pseudonym"] == "1"


def test_a_revoked_key_locks_the_door_and_a_restored_one_opens_it(
    service: RestrictedQueryService, audit: Recorder, settings: Settings
) -> None:
    keys = open_key_service(settings)
    keys.revoke()
    with pytest.raises(KeyRevoked):
        ask(service, SELECT)
    assert audit.events[-1].detail["outcome"] == "locked"
    assert service.query("SELECT 1 AS one", principal=GUARD).rows.to_pylist() == [{"one": 1}]
    keys.restore()
    assert len(ask(service, SELECT)) == 2


def test_an_answer_that_cannot_be_recorded_is_withheld(service: RestrictedQueryService, audit: Recorder) -> None:
    audit.full = True
    with pytest.raises(ServiceUnavailable, match="Audit"):
        ask(service, SELECT)


def test_many_patients_are_recorded_in_parts(
    service: RestrictedQueryService, audit: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("governance.query.restricted.PATIENTS_A_RECORD", 1)
    ask(service, SELECT)
    assert [len(event.patients) for event in audit.events] == [1, 1]


def test_an_answer_has_a_limit_of_its_own(service: RestrictedQueryService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("governance.query.restricted.MOST_IDENTIFIED", 1)
    answer = service.identify(SELECT, principal=GUARD, purpose=PURPOSE, rows=100)
    assert (answer.rows.num_rows, answer.complete) == (1, False)


# -- the command


def test_the_command_is_closed_until_the_configuration_opens_it(
    service: RestrictedQueryService, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["sql", SELECT, "--identified", "--purpose", PURPOSE, "--home", str(home)]
    assert main(arguments) == 12
    captured = capsys.readouterr()
    assert not [secret for secret in SECRETS if secret in captured.out + captured.err]
    with (home / "vitalake.yaml").open("a") as file:
        file.write(f"\nprivacy_officers: [{pwd.getpwuid(1).pw_name}]\n")
    monkeypatch.setattr(os, "getuid", lambda: 1)  # who asks; a real second account: tests/journeys/test_accounts.py
    assert main(arguments) == 0
    assert "ZZMRN-1" in capsys.readouterr().out
    assert main([*arguments, "--patient", "ZZMRN-2", "--json"]) == 0
    assert msgspec.json.decode(capsys.readouterr().out)["rows"][0][0] == "ZZMRN-2"
    assert main(["audit", "list", "--home", str(home)]) == 0
    assert "identified.query" in capsys.readouterr().out
    assert not [
        secret
        for path in (home / "audit").rglob("*")
        if path.is_file()
        for secret in SECRETS
        if secret.encode() in path.read_bytes()
    ]


def test_purpose_and_patient_belong_to_identified_queries(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", "SELECT 1", "--purpose", "x", "--home", str(home)]) == 2
    assert "--identified" in capsys.readouterr().err


def test_the_plain_door_has_no_way_to_identified_rows() -> None:
    assert not hasattr(QueryService, "identify")


def test_words_where_codes_belong_are_opened_and_on_record_as_sealed_cells_are(
    settings: Settings, keys: KeyRing, audit: Recorder, vault: Vault, service: RestrictedQueryService
) -> None:
    said = "I10 zzword of the night"
    rows = [
        {"encounter_id": f"e-{i}", "code_system": "ICD10CM", "code": code, "version": 1, "patient_id": f"ZZMRN-{i}",
         "recorded_at": datetime(2026, 3, 1, tzinfo=UTC)}
        for i, code in enumerate(["I10", said, said], 1)
    ]  # fmt: skip
    keep(settings, vault, keys, "condition", rows)
    found = ask(
        service, "SELECT code, code AS again, upper(code) AS other FROM restricted_condition ORDER BY code_system"
    )
    assert sorted(row["code"] for row in found) == sorted(row["again"] for row in found) == ["I10", said, said]
    assert not [row for row in found if "WORD" in row["other"]]
    assert set(audit.events[-1].patients) == {token(keys, f"ZZMRN-{i}") for i in (1, 2, 3)}
    vault.erase(vault.subject_of("ZZMRN-3"), "certificate")
    left = ask(service, "SELECT code FROM restricted_condition")
    assert sorted(str(row["code"]) for row in left) == ["I10", said, "None"]
