"""The attributor: held messages come back, values follow corrected associations, in every zone, exactly once."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from governance.belonging import open_vault
from pipelines.core.open_letters import census
from pipelines.erasure.request import Eraser
from pipelines.reconcile.reconciler import Attribution, AtWork
from pipelines.republish.repair import repair
from tests.attribution import Ward, hl7_time, pid, pv1, shown
from tests.hl7 import adt
from vitalake import clock
from vitalake.errors import ServiceUnavailable
from vitalake.lake.commits.ledger import summarise
from vitalake.lake.maintenance.compaction import compact
from vitalake.lake.maintenance.verify import verify

pytestmark = pytest.mark.slow

HELD = "quarantine/held"
EVERYBODY = ("A", "B", "C")


@pytest.fixture
def ward(home: Path) -> Ward:
    return Ward(home)


def test_nothing_to_do_makes_nothing(ward: Ward) -> None:
    assert ward.attribute().spans == 0
    assert not (ward.home / "lake").exists()
    ward.stream([ward.bed(0)])
    assert ward.attribute().spans == 0


def test_held_messages_come_back_by_themselves(ward: Ward) -> None:
    ward.stream([ward.bed(second) for second in range(10)])
    assert census(ward.lake, HELD).open == 10
    assert ward.everywhere(EVERYBODY) == {}
    ward.associate("bed-1", "A", 0, 5)
    report = ward.attribute()
    assert (report.released, report.rows, report.spans) == (5, 5, 1)
    assert ward.everywhere(EVERYBODY) == dict.fromkeys(range(5), "A")
    assert census(ward.lake, HELD).open == 5
    ward.associate("bed-1", "B", 5)
    assert ward.attribute().released == 5
    assert census(ward.lake, HELD).open == 0
    attributor = Attribution(ward.settings)
    attributor.run()
    again = attributor.run()
    attributor.close()
    assert (again.released, again.moved, again.spans, again.devices) == (0, 0, 0, 0)
    rows = ward.restricted().to_pylist()
    assert {(row["source"], row["source_position"]) for row in rows} == {("vitals[0]", i) for i in range(10)}


def test_of_two_attributors_one_waits_until_the_other_is_done(ward: Ward) -> None:
    """The online store has no epochs: what an overtaken attributor wrote would stay in it."""
    ward.stream([ward.bed(second) for second in range(3)])
    ward.associate("bed-1", "A", 0)
    first = Attribution(ward.settings)
    first.run()
    ward.associate("bed-1", "B", 0)
    with pytest.raises(AtWork, match="at work"):
        ward.attribute()
    assert first.run().moved > 0
    first.close()
    ward.attribute()
    assert ward.everywhere(EVERYBODY) == dict.fromkeys(range(3), "B")


def test_a_corrected_association_takes_back_what_it_had_put_on_another(ward: Ward) -> None:
    ward.associate("bed-1", "A", 0)
    ward.stream([ward.bed(second) for second in range(6)])
    assert ward.everywhere(EVERYBODY) == dict.fromkeys(range(6), "A")
    ward.associate("bed-1", "B", 3)
    report = ward.attribute()
    assert (report.moved, report.released) == (6, 0)
    assert ward.everywhere(EVERYBODY) == {0: "A", 1: "A", 2: "A", 3: "B", 4: "B", 5: "B"}
    ward.associate("bed-1", "C", 0)  # it never was A
    ward.attribute()
    assert ward.everywhere(EVERYBODY) == {0: "C", 1: "C", 2: "C", 3: "B", 4: "B", 5: "B"}
    ward.associate("bed-1", "B", 3, mistake=True)
    ward.attribute()
    assert ward.everywhere(EVERYBODY) == dict.fromkeys(range(6), "C")
    ward.associate("bed-1", "C", 0, mistake=True)
    ward.attribute()
    assert ward.everywhere(EVERYBODY) == {}
    ward.associate("bed-1", "A", 0)
    ward.attribute()
    assert ward.everywhere(EVERYBODY) == dict.fromkeys(range(6), "A")
    assert ward.attribute().spans == 0


def test_rows_of_other_beds_and_of_named_patients_stay(ward: Ward) -> None:
    named = ward.bed(7, subject={"reference": "Patient/C"})
    ward.associate("bed-1", "A", 0)
    ward.associate("bed-2", "B", 0)
    ward.stream([ward.bed(0), ward.bed(1, "bed-2"), named])
    ward.associate("bed-1", "B", 0)
    assert ward.attribute().moved == 2
    assert ward.everywhere(EVERYBODY) == {0: "B", 1: "B", 7: "C"}


def test_what_is_decided_later_by_less_than_is_known_is_looked_at_again(ward: Ward) -> None:
    ward.associate("bed-1", "A", 0)
    steps = ward.steps()
    assert steps.attributor is not None
    steps.attributor.associations.look()
    steps.attributor.associations.frozen = True  # a lane that has not looked since
    ward.associate("bed-1", "B", 0)
    ward.attribute()
    ward.stream([ward.bed(0), ward.bed(1)], steps=steps)
    steps.close()
    assert ward.everywhere(EVERYBODY) == dict.fromkeys(range(2), "A")
    assert ward.attribute().moved == 4
    assert ward.everywhere(EVERYBODY) == dict.fromkeys(range(2), "B")


def test_a_message_held_later_by_less_than_is_known_comes_back(ward: Ward) -> None:
    steps = ward.steps()
    assert steps.attributor is not None
    steps.attributor.associations.look()
    steps.attributor.associations.frozen = True
    ward.associate("bed-1", "B", 0)
    ward.attribute()
    ward.stream([ward.bed(0), ward.bed(1)], steps=steps)
    steps.close()
    assert census(ward.lake, HELD).open == 2
    assert ward.attribute().released == 2
    assert ward.everywhere(EVERYBODY) == dict.fromkeys(range(2), "B")


def test_corrections_of_the_value_itself_move_too(ward: Ward) -> None:
    ward.associate("bed-1", "A", 0)
    ward.stream([ward.bed(0), ward.bed(1)])
    ward.stream([ward.bed(0, meta={"versionId": "2"}, status="entered-in-error")])
    assert ward.everywhere(EVERYBODY) == {1: "A"}
    ward.associate("bed-1", "B", 0)
    ward.attribute()
    assert ward.everywhere(EVERYBODY) == {1: "B"}


def test_the_ledger_balances(ward: Ward) -> None:
    ward.stream([ward.bed(second) for second in range(10)])
    ward.associate("bed-1", "A", 0, 5)
    ward.attribute()
    ward.associate("bed-1", "B", 2)
    ward.attribute()
    assert summarise(ward.lake.spans).to_json()["balanced"] is True
    assert verify(ward.lake) == []
    assert ward.everywhere(EVERYBODY) == {0: "A", 1: "A", **dict.fromkeys(range(2, 10), "B")}


def test_beds_follow_what_an_adt_feed_says(ward: Ward) -> None:
    """Admitted, moved, another admitted, left; and a late correction says that the first one was someone else."""
    (ward.home / "vitalake.yaml").write_text("jobs: {vitals: {topics: {vitals: hl7-v2}}}\n")
    patients = ("HOSP|11", "HOSP|12", "HOSP|13")
    one, two = "ICU^1^2", "ICU^1^3"
    told = {second: hl7_time(ward.at(second)) for second in range(60)}
    stay = pv1(one, visit="V-1", began=ward.at(0))
    ward.stream([ward.oru(second, one) for second in range(0, 40, 5)], name="hl7-v2")
    ward.stream([ward.oru(second + 1, two) for second in range(0, 40, 5)], name="hl7-v2")
    assert ward.everywhere(patients) == {}
    ward.tell(adt("A01", pid("11"), stay, at=told[0]))
    ward.attribute()
    assert set(ward.everywhere(patients).values()) == {"HOSP|11"}
    ward.tell(
        adt("A02", pid("11"), pv1(two, one, visit="V-1"), at=told[10]),
        adt("A01", pid("12"), pv1(one, visit="V-2", began=ward.at(20)), at=told[20]),
        adt("A03", pid("12"), pv1(one, visit="V-2"), at=told[30]),
    )
    ward.attribute()
    assert ward.everywhere(patients) == {
        **dict.fromkeys((0, 5), "HOSP|11"), **dict.fromkeys((20, 25), "HOSP|12"),
        **dict.fromkeys((11, 16, 21, 26, 31, 36), "HOSP|11"),
    }  # fmt: skip
    ward.tell(adt("A40", pid("13"), "MRG|11^^^HOSP^MR", at=told[40]))
    ward.attribute()
    merged = ward.everywhere(patients)
    assert merged == {
        **dict.fromkeys((0, 5), "HOSP|13"), **dict.fromkeys((20, 25), "HOSP|12"),
        **dict.fromkeys((11, 16, 21, 26, 31, 36), "HOSP|13"),
    }  # fmt: skip
    ward.stream([ward.oru(46, two)], name="hl7-v2")
    assert ward.everywhere(patients) == merged | {46: "HOSP|13"}
    assert ward.attribute().spans == 0


def test_a_merge_of_one_who_was_merged_moves_all_that_was_theirs(ward: Ward) -> None:
    patients = ("HOSP|11", "HOSP|12", "HOSP|13")
    told = hl7_time(ward.at(0))
    ward.tell(adt("A01", pid("11"), pv1("ICU^1^2", visit="V-1", began=ward.at(0)), at=told))
    ward.stream([ward.oru(0, "ICU^1^2")], name="hl7-v2")
    for old, new in (("11", "12"), ("12", "13")):
        ward.tell(adt("A40", pid(new), f"MRG|{old}^^^HOSP^MR", at=hl7_time(ward.at(int(new)))))
        ward.attribute()
        assert ward.everywhere(patients) == {0: f"HOSP|{new}"}


def erase(ward: Ward, patient: str) -> None:
    """Forget a patient."""
    vault = open_vault(ward.settings, ward.keys)
    try:
        Eraser(ward.settings, ward.keys, vault).erase(patient, reason="asked for", actor="test")
    finally:
        vault.close()


def test_the_time_of_who_is_forgotten_is_nobody_elses(ward: Ward) -> None:
    ward.associate("bed-1", "A", 0)  # that A has left nobody has told
    ward.associate("bed-1", "B", 10, 20)
    ward.stream([ward.bed(second) for second in (5, 15)])
    assert ward.everywhere(EVERYBODY) == {5: "A", 15: "B"}
    subject = open_vault(ward.settings, ward.keys).subject_of("B")
    erase(ward, "B")
    ward.attribute()
    assert ward.everywhere(EVERYBODY) == {5: "A"}
    outcome = ward.stream([ward.bed(second) for second in (6, 16)])
    assert outcome.filtered.tolist() == [1]
    ward.associate("bed-1", "B", 30, 40)  # an admission that comes late
    outcome = ward.stream([ward.bed(second) for second in (35, 45)])
    assert outcome.filtered.tolist() == [0]
    ward.attribute()
    assert ward.everywhere(EVERYBODY) == {5: "A", 6: "A", 45: "A"}
    files = [path.read_bytes() for path in (ward.home / "lake").rglob("*.parquet")]
    assert not [data for data in files if subject in data]
    rows = ward.lake.table("restricted/device_association")
    rows.refresh()
    assert sorted(row["patient_id"] is None for row in rows.scan().to_pylist()) == [False, True, True]
    assert verify(ward.lake) == []


def test_an_association_whose_device_is_corrected_leaves_the_one_and_comes_to_the_other(ward: Ward) -> None:
    now = clock.now()
    ward.say(b"s-1", 1, "bed-1", "A", 0, known=now)
    ward.stream([ward.bed(0), ward.bed(1, "bed-2")])
    assert ward.everywhere(EVERYBODY) == {0: "A"}
    ward.say(b"s-1", 2, "bed-2", "A", 0, known=now)
    ward.attribute()
    assert ward.everywhere(EVERYBODY) == {1: "A"}
    ward.stream([ward.bed(2), ward.bed(3, "bed-2")])
    assert ward.everywhere(EVERYBODY) == {1: "A", 3: "A"}


def test_of_an_association_that_counts_no_versions_what_was_told_last_counts(ward: Ward) -> None:
    for known, bed in ((1, "bed-1"), (5, "bed-2"), (9, "bed-1")):
        ward.say(b"s-1", 0, bed, "A", 0, known=ward.at(known))
    ward.stream([ward.bed(30), ward.bed(31, "bed-2")])
    assert ward.everywhere(EVERYBODY) == {30: "A"}
    ward.say(b"s-1", 0, "bed-2", "A", 0, known=ward.at(40))
    ward.say(b"s-2", 0, "bed-1", "B", 0, known=ward.at(40))
    ward.attribute()
    assert ward.everywhere(EVERYBODY) == {30: "B", 31: "A"}
    ward.say(b"s-2", 0, "bed-1", "C", 0, known=ward.at(50))
    ward.attribute()
    assert ward.everywhere(EVERYBODY) == {30: "C", 31: "A"}


def test_what_is_told_late_was_known_before_it_came(ward: Ward) -> None:
    """The feed was late: the later admission came first. The view of any time is as if they had come in order."""
    ward.say(b"s-2", 1, "bed-1", "B", 20, known=ward.at(21))
    ward.stream([ward.bed(second) for second in (10, 30)])
    ward.say(b"s-1", 1, "bed-1", "A", 0, known=ward.at(1))
    ward.say(b"s-2", 2, "bed-1", "C", 20, known=ward.at(300))
    ward.attribute()
    assert ward.everywhere(EVERYBODY) == {10: "A", 30: "C"}
    rows = sorted(ward.restricted().to_pylist(), key=lambda row: (row["available_at"], row["attribution"]))
    assert [(row["patient_id"], row["status"], row["available_at"]) for row in rows] == [
        ("A", "final", ward.at(10)),
        ("B", "final", ward.at(30)),
        ("B", "entered-in-error", ward.at(300)),
        ("C", "final", ward.at(300)),
    ]


def test_compaction_of_associations_changes_nothing(ward: Ward) -> None:
    ward.associate("bed-1", "A", 0)
    steps = ward.steps()
    ward.stream([ward.bed(0)], steps=steps)
    for second in (2, 4, 6):
        ward.associate("bed-1", "B", second)
    table = ward.lake.table("restricted/device_association")
    assert compact(table, min_files=2)
    assert steps.attributor is not None
    steps.attributor.associations.look(now=True)
    ward.stream([ward.bed(1), ward.bed(7)], steps=steps)
    steps.close()
    assert ward.everywhere(EVERYBODY) == {0: "A", 1: "A", 7: "B"}
    assert ward.attribute().spans == 0


def test_a_lake_out_of_reach_leaves_what_was_known(ward: Ward) -> None:
    ward.associate("bed-1", "A", 0)
    steps = ward.steps()
    assert steps.attributor is not None
    associations = steps.attributor.associations
    version = associations.look()
    ward.associate("bed-1", "B", 5)
    folder = ward.home / "lake" / "restricted" / "device_association"
    files = {path: path.read_bytes() for path in folder.rglob("*.parquet")}
    for path in files:
        path.unlink()
    with pytest.raises(ServiceUnavailable):
        associations.look(now=True)
    assert associations.version == version
    for path, data in files.items():
        path.write_bytes(data)
    assert associations.look(now=True) > version
    ward.stream([ward.bed(0), ward.bed(6)], steps=steps)
    assert ward.everywhere(EVERYBODY) == {0: "A", 6: "B"}
    steps.close()


@pytest.mark.parametrize(
    ("how", "before"),
    [*((how, before) for how in ("lost entry", "lost entry, open attributor", "back-up") for before in (False, True)),
     ("back-up, not repaired", False), ("back-up, repaired late", False)],
)  # fmt: skip
def test_associations_that_come_after_a_repair_of_their_log_move_values(
    home: Path, monkeypatch: pytest.MonkeyPatch, how: str, before: bool
) -> None:
    """They got versions that there had been with other rows: nobody looked, and values stayed with the wrong patient.

    New spans are looked at again for two days, which would hide it.
    """
    ago = timedelta(days=10)
    folder = home / "lake" / "restricted" / "device_association"
    with monkeypatch.context() as patched:
        now, now_us = clock.now, clock.now_us
        patched.setattr(clock, "now", lambda: now() - ago)
        patched.setattr(clock, "now_us", lambda: now_us() - ago // timedelta(microseconds=1))
        ward = Ward(home)
        ward.associate("bed-1", "A", 0)
        ward.stream([ward.bed(second) for second in range(6)])
        shutil.copytree(folder / "_delta_log", home / "back-up")
        for _ in range(2):
            compact(ward.lake.table("restricted/device_association"), min_files=1)
            ward.associate("bed-3", "C", 100)
        ward.attribute()
    attributor = Attribution(ward.settings)
    attributor.run()
    table = ward.lake.table("restricted/device_association")
    seen = table.delta.version()
    if before:
        ward.associate("bed-1", "B", 3)
    if "back-up" in how:
        shutil.rmtree(folder / "_delta_log")
        shutil.copytree(home / "back-up", folder / "_delta_log")
    else:
        entries = sorted((folder / "_delta_log").glob("*.json"))
        next(path for path in entries if b'"remove"' in path.read_bytes()).write_bytes(b"torn")
    if "repaired" not in how:
        repair(ward.settings)
    if not before:
        ward.associate("bed-1", "B", 3)
    if "not repaired" not in how and "back-up" in how:  # the log is as long as the one that the attributor knows
        while ward.lake.table(table.name).delta.version() < seen:
            ward.associate("bed-3", "C", 100)
    if "late" in how:
        repair(ward.settings)
    if "open" not in how:
        attributor.close()
        attributor = Attribution(ward.settings)
    attributor.run()
    attributor.close()
    moved = dict.fromkeys(range(3), "A") | dict.fromkeys(range(3, 6), "B")
    tokens = {ward.token(patient): patient for patient in EVERYBODY}
    assert shown(ward.lake.published.scan().to_pylist(), tokens) == moved
    assert shown(ward.restricted().to_pylist(), {patient: patient for patient in EVERYBODY}) == moved
    assert verify(ward.lake) == []


def test_a_lane_that_was_open_during_a_repair_reads_the_associations_again(ward: Ward) -> None:
    steps = ward.steps()
    ward.associate("bed-1", "A", 0)
    for _ in range(2):
        compact(ward.lake.table("restricted/device_association"), min_files=1)
        ward.associate("bed-3", "C", 100)
    ward.stream([ward.bed(second) for second in range(3)], steps=steps)
    ward.attribute()
    entries = sorted((ward.home / "lake/restricted/device_association/_delta_log").glob("*.json"))
    next(path for path in entries if b'"remove"' in path.read_bytes()).write_bytes(b"torn")
    assert steps.attributor is not None
    seen = steps.attributor.associations.version
    repair(ward.settings)
    ward.associate("bed-1", "B", 3)
    assert steps.attributor.associations.look(now=True) > seen + 1
    ward.stream([ward.bed(second) for second in range(3, 6)], steps=steps)
    steps.close()
    moved = dict.fromkeys(range(3), "A") | dict.fromkeys(range(3, 6), "B")
    ward.attribute()
    assert ward.everywhere(EVERYBODY) == moved
