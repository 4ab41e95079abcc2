"""Erasures that are killed, restored, refused, or of a patient with several numbers: how they end, and what is said."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import date, timedelta
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pyarrow as pa
import pytest

from governance.audit import AuditEvent, open_audit
from governance.belonging import open_vault
from governance.erasure import stores
from governance.erasure.certificate import all_of
from governance.erasure.person import ErasedPerson
from governance.erasure.reasons import refuse_naming
from governance.home import init_home
from governance.policy.masks import Pseudonyms
from governance.samples import copy_samples
from governance.vault import Identity, Vault
from governance.vault.erasure_log import ErasureLog
from pipelines.core.dead_letters import open_message
from pipelines.erasure import quarantine_store as letters
from pipelines.erasure import retention_duty as kept
from pipelines.erasure.patient_removal import PatientRemoval
from pipelines.erasure.request import Eraser
from pipelines.intake.steps import make_sealer
from pipelines.online_store.opening import open_online_store
from pipelines.republish import rekey as rekeying
from pipelines.republish import retention
from pipelines.republish.rekey import rekey
from pipelines.republish.republish import republish
from tests import forking
from tests.attribution import Ward, beds, hl7_time, pid, pv1
from tests.fhir import message
from tests.hl7 import adt
from tests.services.polls import LaneWithoutKafka
from vitalake import clock, plugins
from vitalake.cli.app import main
from vitalake.errors import InputError, PrivacyError, ServiceUnavailable
from vitalake.folders import folder_lock
from vitalake.keys import load_keys
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span_log import SpanLog
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.maintenance.retention import expire
from vitalake.settings import load_settings

WHO, OTHER = "p-72", "p-8"
BAD = 9_999.0


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two patients' values, and with rejected messages of theirs and of somebody who has nothing else."""
    home = tmp_path_factory.mktemp("flow") / "home"
    init_home(home, copy_samples)
    _send(home, "u", [message(i, patient=WHO if i % 2 else OTHER) for i in range(10)],
          [message(20, patient=WHO, value=BAD), message(21, patient="only-bad", value=BAD)])  # fmt: skip
    return home


@pytest.fixture
def home(filled: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(filled, tmp_path / "home"))


def _send(home: Path, topic_id: str, *batches: list[bytes]) -> None:
    lane = LaneWithoutKafka(home, topic_id=topic_id)
    for batch in batches:
        lane.send([(0, each) for each in batch], cut=True)
    lane.rows()
    lane.lane.steps.close()


@contextmanager
def _eraser(home: Path) -> Iterator[Eraser]:
    settings = load_settings(home)
    keys = load_keys(settings.path(settings.keys))
    vault = open_vault(settings, keys)
    try:
        yield Eraser(settings, keys, vault)
    finally:
        vault.close()


@contextmanager
def _vault(home: Path) -> Iterator[Vault]:
    with _eraser(home) as eraser:
        yield eraser._vault


def _run(home: Path, *arguments: str, crash_at: str = "") -> subprocess.CompletedProcess[str]:
    env = os.environ | ({"VITALAKE_CRASH_AT": crash_at} if crash_at else {})
    return subprocess.run(forking.command("vitalake", "patient", *arguments, "--home", str(home)),
                          capture_output=True, text=True, env=env, check=False)  # fmt: skip


def _erase(home: Path, patient: str, **options: bool) -> Any:
    with _eraser(home) as eraser:
        return eraser.erase(patient, reason="request 17", actor="officer", **options)


def _token(home: Path, patient: str) -> str:
    settings = load_settings(home)
    return Pseudonyms(load_keys(settings.path(settings.keys)), "patient-identifier").token(patient)


def _published(home: Path, patient: str) -> int:
    rows = Lake(load_settings(home).lake_uri, {}).published.scan(columns=["patient_id"])["patient_id"].to_pylist()
    return rows.count(_token(home, patient))


def _letters(home: Path, patient: str) -> int:
    settings = load_settings(home)
    keys = load_keys(settings.path(settings.keys))
    rows = Lake(settings.lake_uri, {}).present()["quarantine/dead_letter"].scan().to_pylist()
    return sum(f"Patient/{patient}".encode() in open_message(row, keys).payload for row in rows)


def _on_the_board(home: Path, patient: str) -> int:
    settings = load_settings(home)
    care = open_online_store(settings, load_keys(settings.path(settings.keys)))
    try:
        return len(care.history(_token(home, patient)))
    finally:
        care.close()


def _back_up(home: Path, folder: Path, *names: str) -> None:
    for name in names:
        with sqlite3.connect(home / name) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(home / name, folder / name)


def _restore(home: Path, folder: Path, *names: str) -> None:
    for name in names:
        for old in home.glob(f"{name}*"):
            old.unlink()
        shutil.copy(folder / name, home / name)


# -- restored ----------------------------------------------------------------------------------------------------


def test_what_a_restored_lake_and_care_store_bring_back_goes_again(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "lake", tmp_path / "lake")
    _back_up(home, tmp_path, "care.db")
    values = _on_the_board(home, WHO)
    _erase(home, WHO)
    shutil.rmtree(home / "lake")
    shutil.copytree(tmp_path / "lake", home / "lake")
    _restore(home, tmp_path, "care.db")
    assert (_published(home, WHO), _letters(home, WHO), _on_the_board(home, WHO)) == (5, 1, values)
    done = _run(home, "reapply")
    assert done.returncode == 0, done.stderr
    assert "1 erasure is in force again" in done.stdout
    assert (_published(home, WHO), _letters(home, WHO), _on_the_board(home, WHO)) == (0, 0, 0)
    assert (_published(home, OTHER), _letters(home, "only-bad")) == (5, 1)


def test_who_is_forgotten_without_a_certificate_is_named_by_it_and_can_be_erased_to_the_end(
    home: Path, tmp_path: Path
) -> None:
    """The whole home is restored, and only the log was kept apart."""
    shutil.copytree(home, tmp_path / "back-up")
    certificate = _erase(home, WHO).id
    shutil.copy(home / "erasures.jsonl", tmp_path / "log")
    shutil.rmtree(home)
    shutil.copytree(tmp_path / "back-up", home)
    shutil.copy(tmp_path / "log", home / "erasures.jsonl")
    done = _run(home, "reapply")
    assert done.returncode == 12
    assert certificate in done.stderr
    assert _letters(home, WHO) == 0
    again = _erase(home, WHO)
    assert (again.id, again.resumed, _published(home, WHO)) == (certificate, True, 0)
    assert _run(home, "reapply").returncode == 0


def test_killed_and_its_vault_restored_from_before_it_can_be_asked_for_again(home: Path, tmp_path: Path) -> None:
    _back_up(home, tmp_path, "vault.db")
    _run(home, "erase", WHO, "--reason", "request 17", "--yes", crash_at="erase-begun")
    _restore(home, tmp_path, "vault.db")
    done = _run(home, "erase", WHO, "--reason", "request 17", "--yes")
    assert done.returncode == 0, done.stderr
    assert (_published(home, WHO), len(all_of(home / "certificates"))) == (0, 1)


# -- killed, and refused meanwhile -------------------------------------------------------------------------------


@pytest.fixture
def noted(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with an erasure that got no further than its note: the log's disk was full."""

    def full(log: ErasureLog, *_: object) -> None:
        raise log._refused(OSError(28, "No space left on device"))

    with monkeypatch.context() as patched, pytest.raises(ServiceUnavailable):
        patched.setattr(ErasureLog, "append", full)
        _erase(home, WHO)
    return home


def test_a_hold_drops_the_note_of_an_erasure_and_stops_nobody_elses(noted: Path) -> None:
    with _vault(noted) as vault:
        vault.hold(vault.subject_of(WHO), "court order 5")
    done = _run(noted, "erase", OTHER, "--reason", "request 18", "--yes")
    assert done.returncode == 0, done.stderr
    assert "court order 5" in done.stderr
    assert (_published(noted, WHO), _published(noted, OTHER)) == (5, 0)
    with _vault(noted) as vault:
        assert vault.pending_erasures() == []
        assert vault.holds(vault.subject_of(WHO))


def test_an_erasure_that_is_stopped_says_so_in_the_audit(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(log: ErasureLog, *_: object) -> None:
        raise log._refused(OSError(28, "No space left on device"))

    with monkeypatch.context() as patched:
        patched.setattr(ErasureLog, "append", full)
        for arguments in ([WHO, "--reason", "request 17", "--yes"], []):
            assert main(["patient", "erase", *arguments, "--home", str(home)]) == 14
    with _vault(home) as vault:
        (pending,) = vault.pending_erasures()
    _erase(home, OTHER)
    stopped = {"outcome": "stopped", "error": "ServiceUnavailable"}
    assert _ends(home) == [{"outcome": "begun"}, stopped, stopped | {"certificate": pending.certificate}]


def test_what_was_finished_and_what_not_is_on_record_if_the_key_is_revoked_meanwhile(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of interrupted erasures cannot be read any more then, and neither the finished one nor the others had
    a record."""
    ids = {patient: f"erasure-2025010{i}-0000000{i}" for i, patient in enumerate((WHO, OTHER, "only-bad"))}
    with _eraser(home) as eraser:
        for patient, certificate in ids.items():
            person = eraser._person(patient, {}, reason="request 17", actor="officer", begun_at="2025-01-01T00:00:00Z")
            eraser._begin(person, certificate)
    real = PatientRemoval.clear

    def clear(self: PatientRemoval, person: ErasedPerson) -> Any:
        if person.ids[0] == OTHER:
            assert main(["keys", "revoke", "--home", str(home)]) == 0
            self._vault.check()
        return real(self, person)

    with monkeypatch.context() as patched:
        patched.setattr(PatientRemoval, "clear", clear)
        assert main(["patient", "erase", "--home", str(home)]) == 12
    stopped = {"outcome": "stopped", "error": "KeyRevoked"}
    assert _ends(home) == [
        {"outcome": "finished", "certificate": ids[WHO]},
        stopped | {"certificate": ids[OTHER]},
        stopped | {"certificate": ids["only-bad"]},
    ]
    assert main(["keys", "revoke", "--undo", "--home", str(home)]) == 0
    assert main(["patient", "erase", "--home", str(home)]) == 0
    ended = [(one["outcome"], one["certificate"]) for one in _ends(home)[3:]]
    assert sorted(ended) == [("finished", ids[OTHER]), ("finished", ids["only-bad"])]
    assert (_published(home, WHO), _published(home, OTHER), _letters(home, "only-bad")) == (0, 0, 0)


def _ends(home: Path) -> list[dict[str, str]]:
    """Return what the audit says of erasures, oldest first."""
    shown = msgspec.json.decode(_run_audit(home, "list"))["records"]
    assert WHO not in str(shown)
    records = sorted(shown, key=lambda record: record["at"])
    return [record["detail"] for record in records if record["action"] == "patient.erase"]


def test_what_is_gone_on_with_before_the_key_went_takes_the_pseudonym_of_now(noted: Path) -> None:
    rekey(load_settings(noted))
    with _eraser(noted) as eraser:
        (done,), failed = eraser.finish()
    assert (failed, _published(noted, WHO)) == ([], 0)
    assert {table.table: table.rows for table in done.tables}["published/observation"] == 5


@pytest.mark.parametrize(("point", "rows"), [("erase-certified", 5), ("erase-elsewhere", 0)])
def test_a_certificate_that_is_written_stays_and_one_gone_on_with_says_so(home: Path, point: str, rows: int) -> None:
    _run(home, "erase", WHO, "--reason", "request 17", "--yes", crash_at=point)
    before = all_of(home / "certificates")
    assert _run(home, "erase").returncode == 0
    (done,) = all_of(home / "certificates")
    assert {table.table: table.rows for table in done.tables}["published/observation"] == rows
    assert (done.resumed, before in ([], [done])) == (rows == 0, True)


def test_one_officer_waits_for_the_other(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, real, most, both = [0], letters.erase_messages, [0], threading.Barrier(2)

    def slow(*arguments: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        with suppress(threading.BrokenBarrierError):
            both.wait(2)  # for one who should not come
        try:
            return real(*arguments)
        finally:
            inside[0] -= 1

    monkeypatch.setattr("pipelines.erasure.patient_removal.erase_messages", slow)
    threads = [threading.Thread(target=_erase, args=(home, patient)) for patient in (WHO, OTHER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = [{t.table: t.rows for t in done.tables}["published/observation"] for done in all_of(home / "certificates")]
    assert (most, rows) == ([1], [5, 5])


def test_a_hold_that_comes_while_the_patient_is_erased_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _vault(home) as vault:
        subject, real = vault.subject_of(WHO), vault._store.transaction

        def late() -> Any:
            monkeypatch.undo()
            _erase(home, WHO)
            return real()

        monkeypatch.setattr(vault._store, "transaction", late)
        with pytest.raises(InputError):
            vault.hold(subject, "court order 5")
        assert (vault.holds(subject), vault.on_hold()) == ([], [])


# -- who is not known, or not any more ---------------------------------------------------------------------------


def test_of_whom_all_was_rejected_the_messages_go_when_asked_to(home: Path) -> None:
    assert _run(home, "erase", "only-bad", "--reason", "request 17", "--yes").returncode == 11
    assert _letters(home, "only-bad") == 1
    done = _run(home, "erase", "only-bad", "--reason", "request 17", "--yes", "--unknown")
    assert done.returncode == 0, done.stderr
    assert _letters(home, "only-bad") == 0


def test_what_was_rejected_after_the_erasure_goes_when_it_is_asked_for_again(home: Path) -> None:
    certificate = _erase(home, WHO).id
    _send(home, "again", [message(20, patient=WHO, value=BAD), message(21, patient="only-bad", value=BAD)])
    letters = _letters(home, WHO)
    done = _run(home, "erase", WHO, "--reason", "request 17", "--yes")
    assert done.returncode == 0, done.stderr
    assert f"{certificate}. {letters} rows had arrived since then" in done.stdout
    assert _letters(home, WHO) == 0


# -- numbers of one patient --------------------------------------------------------------------------------------

OLD, NEW = "HOSP|11", "HOSP|13"


class Notes:
    """A store of another package, registered by it; says what it was asked."""

    asked: ClassVar[list[tuple[int, int | None]]] = []
    left: ClassVar[dict[str, int]] = {}

    def forget(self, whom: stores.Forgetting) -> int:
        """Take note of how many are to be forgotten."""
        self.asked.append((len(whom.forgotten.digests), None if whom.patients is None else len(whom.patients)))
        return 7

    def held(self, whom: stores.Forgetting) -> dict[str, int]:
        """Hold what the test says."""
        return self.left


def test_every_store_that_is_registered_forgets_and_is_in_the_certificate(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = list(entry_points(group=stores.GROUP))
    entry = EntryPoint("notes", f"{__name__}:Notes", stores.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: [*ours, entry])
    Notes.asked.clear()
    certificate = _erase(home, WHO)
    assert certificate.elsewhere.keys() == {"care", "scores", "notes"}
    assert certificate.elsewhere["notes"] == 7
    with _eraser(home) as eraser:
        eraser.reapply([certificate])
    assert Notes.asked == [(1, 1), (1, None)]


def test_a_store_that_keeps_something_keeps_the_erasure_unfinished(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [*entry_points(group=stores.GROUP), EntryPoint("notes", f"{__name__}:Notes", stores.GROUP)]
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: entries)
    monkeypatch.setattr(Notes, "left", {"notes": 3})
    with pytest.raises(PrivacyError, match=r"Store notes still has entries of an erased patient \(notes\)"):
        _erase(home, WHO)
    with _eraser(home) as eraser:
        assert len(eraser.finish()[1]) == 1, "it is tried again, and says so again"
    monkeypatch.setattr(Notes, "left", {})
    with _eraser(home) as eraser:
        (done,), errors = eraser.finish()
    assert not errors and done.resumed and done.elsewhere["notes"] == 7


def test_what_is_shown_of_a_patient_is_what_an_erasure_removes(home: Path) -> None:
    shown = _run(home, "show", WHO, "--json")
    assert shown.returncode == 0, shown.stderr
    assert WHO not in shown.stdout + shown.stderr and _token(home, WHO) not in shown.stdout + shown.stderr
    (held,) = msgspec.json.decode(shown.stdout)["held"]
    assert held["tables"]["published/observation"] == _published(home, WHO) == 5
    assert held["tables"]["quarantine/dead_letter"] == 2, (
        "the patient's, and one of the same stay by a name nobody knows"
    )
    certificate = _erase(home, WHO)
    assert {table.table: table.rows for table in certificate.tables} == held["tables"]
    with _eraser(home) as eraser:
        (after,) = eraser.find(WHO)
    assert not any(after.tables.values()) and not any(after.elsewhere.values())
    assert "Nothing is held of this patient." in _run(home, "show", WHO).stdout


def test_who_asks_what_is_held_of_a_patient_is_on_record_before_it_is_shown(home: Path) -> None:
    _run(home, "show", WHO)
    recorded = msgspec.json.decode(_run_audit(home, "list"))["records"]
    shows = [record for record in recorded if record["action"] == "patient.show"]
    assert len(shows) == 1 and shows[0]["detail"] == {"outcome": "asked"}
    unknown = _run(home, "show", "no-such-patient")
    assert unknown.returncode and "no-such-patient" not in unknown.stderr


def test_without_one_of_our_stores_nobody_is_erased_and_nothing_changes(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _published(home, WHO)
    assert before > 0
    with monkeypatch.context() as patched, pytest.raises(PrivacyError, match="not registered"):
        patched.setattr(plugins, "entry_points", lambda *, group: [])
        _erase(home, WHO)
    assert _published(home, WHO) == before
    with _vault(home) as vault:
        assert vault.tombstone(vault.subject_of(WHO)) is None


@pytest.fixture
def ward(tmp_path: Path) -> Ward:
    """A ward in which number 11 was merged into 13."""
    home = tmp_path / "home"
    init_home(home, copy_samples)
    (home / "vitalake.yaml").write_text("jobs: {vitals: {topics: {vitals: hl7-v2}}}\n")
    ward, bed = Ward(home), "ICU^1^2"
    ward.stream([ward.oru(second, bed) for second in range(0, 20, 5)], name="hl7-v2")
    ward.tell(adt("A01", pid("11"), pv1(bed, visit="V-1", began=ward.at(0)), at=hl7_time(ward.at(0))))
    ward.attribute()
    ward.tell(adt("A40", pid("13"), "MRG|11^^^HOSP^MR", at=hl7_time(ward.at(40))))
    ward.attribute()
    return ward


def _run_audit(home: Path, *arguments: str) -> str:
    command = forking.command("vitalake", "audit", *arguments, "--home", str(home), "--json")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("asked", "other"), [(OLD, NEW), (NEW, OLD)])
def test_one_of_several_numbers_is_refused_and_all_go_together(ward: Ward, asked: str, other: str) -> None:
    event = AuditEvent("identity.read", "clinician", "clinician", (_token(ward.home, other),), {})
    open_audit(ward.settings, ward.keys, writer="serving").record(event)
    assert _run_audit(ward.home, "who-saw", asked).count("identity.read") == 1, "who saw one number saw the person"
    done = _run(ward.home, "erase", asked, "--reason", "request 17", "--yes")
    assert done.returncode == 12
    assert _token(ward.home, other) in done.stderr
    assert asked not in done.stderr
    assert other not in done.stderr
    with _vault(ward.home) as vault:
        vault.hold(vault.subject_of(other), "court order 5")
    held = _run(ward.home, "erase", asked, "--reason", "request 17", "--yes", "--all-numbers")
    assert (held.returncode, "court order 5" in held.stderr) == (12, True)
    assert ward.restricted().num_rows > 0
    with _vault(ward.home) as vault:
        vault.release(vault.subject_of(other))
    done = _run(ward.home, "erase", asked, "--reason", "request 17", "--yes", "--all-numbers")
    assert done.returncode == 0, done.stderr
    first, second = all_of(ward.home / "certificates")
    assert (first.together, second.together) == ((second.id,), (first.id,))
    assert ward.restricted().num_rows == 0
    assert [_published(ward.home, number) for number in (OLD, NEW)] == [0, 0]
    table = Lake(ward.settings.lake_uri, {}).present()["restricted/device_association"]
    rows = table.scan().to_pylist()
    assert [row["device_id"] for row in rows] == [None], "that a bed was with somebody stays, and names nobody"


def test_a_merge_that_never_was_makes_nobody_another(ward: Ward) -> None:
    """Else all of somebody else's would be erased with the patient."""
    form = ["association_id", "version", "device_id", "patient_id", "valid_from", "available_at", "status"]
    with _vault(ward.home) as vault:
        sealer = make_sealer(load_dataset("device_association"), vault, ward.keys)
        table = Lake(ward.settings.lake_uri, {}).present()["restricted/device_association"]
        rows = sealer.open(table.scan())
        (merge,) = [row for row in rows.select(form).to_pylist() if str(row["device_id"]).startswith("patient:")]
        taken_back = merge | {"version": merge["version"] + 1, "status": "entered-in-error"}
        batch = pa.Table.from_pylist([taken_back], load_dataset("device_association").schema).to_batches()[0]
        sealed, _ = sealer.seal(batch)
        table.commit(add=table.stage(pa.Table.from_batches([sealed]), stem="mistake"), transactions={})
    _erase(ward.home, OLD)
    (done,) = all_of(ward.home / "certificates")
    assert done.together == ()
    with _vault(ward.home) as vault:
        assert vault.patient_ids([vault.subject_of(NEW)])
    table.refresh()
    with _vault(ward.home) as vault:
        left = make_sealer(load_dataset("device_association"), vault, ward.keys).open(table.scan())
    assert f"patient:{OLD}" not in left["device_id"].to_pylist(), "nor does it name whom it named"


def test_killed_between_two_numbers_both_are_forgotten_by_the_next(ward: Ward) -> None:
    done = _run(ward.home, "erase", OLD, "--reason", "request 17", "--yes", "--all-numbers",
                crash_at="erasure-destroyed")  # fmt: skip
    assert done.returncode < 0
    with _eraser(ward.home) as eraser:  # today the reason would be refused, but it was taken, and a key is gone
        who = next(number for number in (OLD, NEW) if eraser._vault.tombstone(eraser._vault.subject_of(number)) is None)
        eraser._vault.put([(_token(ward.home, who), 1, Identity(who, "Request, Zoe", None, None, None))])
        with pytest.raises(InputError, match="Reason contains"):
            eraser.refuse_words(who, "request 17")
    done = _run(ward.home, "erase")
    assert done.returncode == 0, done.stderr
    first, second = all_of(ward.home / "certificates")
    assert (first.together, second.together) == ((second.id,), (first.id,))
    assert [_published(ward.home, number) for number in (OLD, NEW)] == [0, 0]


# -- what must be kept, and what must not be said -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends", "refused"),
    [([None], True), ([-50], False), ([None, -50], False), ([-50, -20], True), ([-20, -50], False)],
)
def test_a_stay_counts_by_its_end_as_told_last_and_while_it_lasts_by_today(
    home: Path, ends: list[int | None], *, refused: bool
) -> None:
    """Admitted 100 days ago, of which 30 must be kept; each end is a version of the stay, in days from now."""
    now = clock.now()
    admitted = now - timedelta(days=100)
    with _vault(home) as vault:
        settings = load_settings(home)
        keys = load_keys(settings.path(settings.keys))
        dataset = load_dataset("encounter")
        rows = [
            {"encounter_id": "e-1", "version": version, "patient_id": WHO, "admitted_at": admitted,
             "discharged_at": None if end is None else now + timedelta(days=end), "available_at": now}
            for version, end in enumerate(ends)
        ]  # fmt: skip
        batch = pa.Table.from_pylist(rows, dataset.schema).combine_chunks().to_batches()[0]
        sealed, _ = make_sealer(dataset, vault, keys).seal(batch)
        table = Lake(settings.lake_uri, {}, dataset="encounter").table("restricted/encounter")
        table.commit(add=table.stage(pa.Table.from_batches([sealed]), stem="stay"), transactions={})
        after = str(date.today() - timedelta(days=30))  # noqa: DTZ011
        assert (kept.newest_day(table, vault.subject_of(WHO), vault, keys, after=after) is not None) == refused
        assert kept.newest_day(table, vault.subject_of(OTHER), vault, keys, after=after) is None


@pytest.mark.parametrize("reason", ["of 4711", "HOSP|4711's wish", "tok-9 asks"])
def test_a_reason_that_names_the_patient_is_refused_and_not_echoed(reason: str) -> None:
    with pytest.raises(InputError) as refused:
        refuse_naming(reason, ["HOSP|4711", "tok-9"])
    assert "4711" not in str(refused.value)
    refuse_naming("request 2026-17 of 14711", ["HOSP|4711", "tok-9"])


def test_what_is_wanted_shows_nobody_and_comes_back_from_the_vault() -> None:
    wanted = ErasedPerson(("Zz|1",), ("Zztoken",), "request 17", "officer", "2026", {"Zz|2": "erasure-1"})
    assert "Zz" not in repr(wanted)
    assert ErasedPerson.unpacked(wanted.packed()) == wanted
    assert replace(wanted, together={}) != wanted


def test_a_certificate_is_written_though_broker_and_rules_cannot_be_asked(home: Path) -> None:
    (home / "vitalake.yaml").write_text(
        "kafka: {bootstrap_servers: 'localhost:1', options: {sasl.password: 'env:NOT_HERE'}}\n"
        "jobs: {vitals: {topics: {vitals: fhir}}}\n"
    )
    done = _erase(home, WHO)
    assert any("did not say" in place.what for place in done.outside)
    with pytest.raises(PrivacyError, match="already"):
        _erase(home, WHO)


# -- what must not come between ----------------------------------------------------------------------------------


def _is_locked(home: Path) -> bool:
    """Return whether somebody keeps others from erasing."""
    with suppress(BlockingIOError), folder_lock(home / "certificates", wait=False):
        return False
    return True


def test_erasure_with_keys_of_before_a_re_key_does_nothing(home: Path) -> None:
    """It looked for the pseudonyms of before, and certified that nothing was left while the new ones stayed."""
    with _eraser(home) as eraser:
        rekey(load_settings(home))
        with pytest.raises(ServiceUnavailable, match="changed meanwhile"):
            eraser.erase(WHO, reason="request 17", actor="officer")
    assert _published(home, WHO) == 5
    _erase(home, WHO)
    assert _published(home, WHO) == 0


def test_re_key_waits_for_an_erasure_and_retention_for_who_sets_a_hold(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, bool] = {}
    _erase(home, "only-bad", unknown=True)

    def note(module: Any, name: str) -> None:
        real = getattr(module, name)

        def noting(*arguments: Any, **options: Any) -> Any:
            seen[name] = _is_locked(home)
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, noting)

    note(rekeying, "add_version")
    rekey(load_settings(home))
    note(retention, "expire")
    list(retention.retain(load_settings(home), datasets=["observation"], days=36_500))
    note(Vault, "hold")
    assert main(["patient", "hold", WHO, "--reason", "court 7", "--home", str(home)]) == 0
    assert seen == {"add_version": True, "expire": True, "hold": True}
    assert not _is_locked(home)


def test_no_republish_comes_between_the_tables_of_a_retention(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It published the expired rows again, of identified rows that were deleted afterwards."""
    settings, tables = load_settings(home), list[str]()

    def beside(table: Any, *arguments: Any, **options: Any) -> Any:
        if tables:
            with pytest.raises(ServiceUnavailable, match="publishing"):
                republish(settings, "observation")
        tables.append(table.name)
        return expire(table, *arguments, **options)

    monkeypatch.setattr(retention, "expire", beside)
    assert sum(done.held for done in retention.retain(settings, datasets=["observation"], days=1)) == 0
    assert tables == ["published/observation", "restricted/observation"]


def test_retention_that_was_killed_leaves_what_a_later_hold_keeps(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had deleted the identified rows first: the next republish emptied what was published of the held patient."""
    settings = load_settings(home)

    def killed(table: Any, *arguments: Any, **options: Any) -> Any:
        expire(table, *arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(retention, "expire", killed)
    with pytest.raises(KeyboardInterrupt):
        list(retention.retain(settings, datasets=["observation"], days=1))
    monkeypatch.undo()
    assert main(["patient", "hold", WHO, "--reason", "court 7", "--home", str(home)]) == 0
    list(retention.retain(settings, datasets=["observation"], days=1))
    republish(settings, "observation")
    assert _published(home, WHO) == 5
    assert _published(home, OTHER) == 0


def test_table_that_is_made_while_an_erasure_begins_is_searched_too(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lake's first held message was decided after the tables had been listed: the patient stayed in it."""
    held, who = home / "lake" / "quarantine" / "held", "patient-000123"
    _send(home, "early", [message(1, patient=who)])
    assert not held.exists()
    raise_fences, now = SpanLog.raise_fences, clock.now()

    def after_a_message(log: SpanLog, datasets: Iterable[str]) -> dict[str, int]:
        monkeypatch.undo()
        lane = LaneWithoutKafka(home, topic_id="late")
        messages = [beds(n, begin=now, note=[{"text": f"moved by {one}"}]) for n, one in enumerate((who, OTHER))]
        lane.send([(0, each) for each in messages], cut=True, broker_ms=int(now.timestamp() * 1000) + 5_000)
        lane.lane.steps.close()
        return raise_fences(log, datasets)

    monkeypatch.setattr(SpanLog, "raise_fences", after_a_message)
    _erase(home, who)
    assert held.exists()
    settings = load_settings(home)
    keys = load_keys(settings.path(settings.keys))
    rows = Lake(settings.lake_uri, {}).table("quarantine/held").scan().to_pylist()
    assert [who.encode() in open_message(row, keys).payload for row in rows] == [False]
