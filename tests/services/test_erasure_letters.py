"""Messages that were put aside: an erasure finds whose they are, and leaves what somebody else may still decide."""

from __future__ import annotations

import json
import shutil
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from governance.belonging import open_vault
from governance.erasure.certificate import Certificate, TableErased
from governance.home import init_home
from governance.samples import copy_samples
from pipelines.core.dead_letters import open_message
from pipelines.erasure import patient_removal
from pipelines.erasure import quarantine_store as letters
from pipelines.erasure.quarantine_store import Search, erase_messages
from pipelines.erasure.request import Eraser
from tests.attribution import Ward
from tests.fhir import message
from tests.hl7 import obx, oru
from tests.services.polls import LaneWithoutKafka
from vitalake.errors import PrivacyError
from vitalake.keys import load_keys
from vitalake.lake.commits.lake import Lake
from vitalake.lake.maintenance.verify import verify
from vitalake.lake.tables.table import Table
from vitalake.settings import load_settings

BAD = 9_999.0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home."""
    init_home(tmp_path / "home", copy_samples)
    return tmp_path / "home"


def _erase(home: Path, patient: str) -> Certificate:
    settings = load_settings(home)
    keys = load_keys(settings.path(settings.keys))
    vault = open_vault(settings, keys)
    try:
        return Eraser(settings, keys, vault).erase(patient, reason="r", actor="a")
    finally:
        vault.close()


def _of(certificate: Certificate, name: str) -> TableErased:
    return next(table for table in certificate.tables if table.table == f"quarantine/{name}")


def _files(home: Path, name: str = "dead_letter") -> list[Path]:
    return sorted((home / "lake/quarantine" / name).glob("day=*/*.parquet*"))


def _messages(home: Path, name: str = "dead_letter") -> Iterator[bytes]:
    """Yield every message in every file there is, those of older versions too."""
    settings = load_settings(home)
    keys = load_keys(settings.path(settings.keys))
    for path in _files(home, name):
        for row in pq.ParquetFile(path).read().to_pylist():
            yield open_message(row, keys).payload


def _feed(home: Path, *messages: bytes) -> None:
    lane = LaneWithoutKafka(home)
    lane.send([(0, payload) for payload in messages], cut=True)
    lane.rows()
    lane.lane.steps.close()


def _sound(home: Path) -> bool:
    return verify(Lake(load_settings(home).lake_uri, {})) == []


def test_letters_are_found_by_composed_numbers_and_not_by_values(home: Path) -> None:
    (home / "vitalake.yaml").write_text("jobs: {vitals: {topics: {vitals: hl7-v2}}}\n")
    bad = obx(value="99999")
    mine = [oru(), oru(bad), oru(bad, pid=r"PID|1|| 47\X3131\ ^^^HOSP^MR")]
    others = [oru(bad, pid="PID|1||4711^^^CLINIC"), oru(obx(value="4711", unit="zzz"), pid="PID|1||9^^^HOSP")]
    Ward(home).stream([*mine, *others, b"PID|1||4711^^^HOSP"], name="hl7-v2")
    done = _of(_erase(home, "HOSP|4711"), "dead_letter")
    assert (done.rows, done.unreadable) == (3, 0), "of what cannot be taken apart rather too much"
    assert sorted(_messages(home)) == sorted(others)
    assert _sound(home)


def test_letters_are_found_by_logical_identifiers(home: Path) -> None:
    subject = {"identifier": {"system": "urn:oid:1.2.3", "value": "72"}}
    other = message(3, patient="72", value=BAD)
    _feed(home, message(1, subject=subject), message(2, subject=subject, value=BAD), other)
    assert _of(_erase(home, "urn:oid:1.2.3|72"), "dead_letter").rows == 1
    assert list(_messages(home)) == [other]


def test_letters_that_name_the_stay_and_no_patient_are_found(home: Path) -> None:
    stay = {"encounter": {"reference": "Encounter/stay-72"}}
    mine = message(2, subject=None, value=BAD, **stay)
    others = [
        message(3, subject=None, value=BAD, encounter={"reference": "Encounter/stay-7"}),
        message(4, patient="p-9", value=BAD, **stay),
    ]
    _feed(home, message(1, patient="p-72", **stay), mine, *others)
    assert _of(_erase(home, "p-72"), "dead_letter").rows == 1
    assert sorted(_messages(home)) == sorted(others)
    assert _sound(home)


def test_letters_in_which_the_patient_is_written_wrongly_go_and_do_not_come_again(home: Path) -> None:
    who = "1303122"
    wrong = [f"patient/{who}", who, f"#{who}", f"Person/{who}", f"Patient?_id={who}"]
    mine = [message(10 + i, subject={"reference": text}, value=BAD) for i, text in enumerate(wrong)]
    inner = b64encode(message(20, patient=who, value=BAD)).decode()
    mine += [message(21, subject={"display": f"Quartermaine, Zebulon ({who})"}, value=BAD)]
    mine += [json.dumps({"resourceType": "Observation", "status": 7, **each}).encode()
             for each in ({"pt": who, "patient_name": "Q"}, {"patient": {"no": who}}, {"data": inner},
                          {"patientType": "inpatient", "nr": who}, {"subject": "rr", "nr": float(who)})]  # fmt: skip
    mine += [f"MRN:{who}.0;hr=x".encode()]
    others = [
        message(31, patient="p-8", value=BAD, note=[{"text": who}]),
        message(32, subject=None, encounter=None, value=BAD),
        message(33, patient="20007", value=BAD, valueString=who),
    ]
    others.append(b"{")
    _feed(home, message(1, patient=who), message(2, patient="p-8"), *mine, *others)
    assert sorted(_messages(home)) == sorted([*mine, *others])
    done = _of(_erase(home, who), "dead_letter")
    assert (done.rows, done.nameless) == (len(mine), 3), "of three that are left nobody can say whose they are"
    assert sorted(_messages(home)) == sorted(others)
    lane = LaneWithoutKafka(home, topic_id="again")
    lane.send([(0, payload) for payload in mine], cut=True)
    lane.rows()
    lane.lane.steps.close()
    assert sorted(_messages(home)) == sorted(others)
    assert _sound(home)


def test_the_certificate_says_how_many_letters_nobody_can_open(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _feed(home, message(1, patient="p-72"), message(2, patient="p-72", value=BAD), message(3, value=BAD))

    def gone(*_: object) -> None:
        raise PrivacyError("Key is gone", where="key", remedy="None.")

    monkeypatch.setattr(letters, "open_message", gone)
    assert _of(_erase(home, "p-72"), "dead_letter").unreadable == 2


def test_what_a_live_lane_has_staged_is_left_for_it_to_decide(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = message(9, patient="p-72", value=BAD)
    _feed(home, message(1, patient="p-72"), mine, message(2, patient="other"), message(3, patient="other", value=BAD))
    staged: list[int] = []

    def beside(table: Table, search: Search) -> TableErased:
        lane = LaneWithoutKafka(home, topic_id="again")  # it has opened anew, under the raised fence
        lane.send([(0, mine), (0, message(50, patient="other", value=BAD))], cut=False)
        decide, done = lane.lane.writer._decide, []  # type: ignore[union-attr]

        def decided(span: object) -> None:
            staged.append(len(_files(home)))
            done.append(erase_messages(table, search))  # between its staging and its deciding
            decide(span)  # type: ignore[arg-type]

        monkeypatch.setattr(lane.lane.writer, "_decide", decided)
        lane.lane.finish()
        lane.lane.reset()
        lane.lane.steps.close()
        return done[0]

    monkeypatch.setattr(patient_removal, "erase_messages", beside)
    assert _of(_erase(home, "p-72"), "dead_letter").files_deleted == 1
    assert staged
    assert _sound(home)
    monkeypatch.setattr(patient_removal, "erase_messages", erase_messages)
    _erase(home, "other")
    assert _sound(home)


def test_only_files_that_can_be_in_no_version_any_more_are_deleted(home: Path) -> None:
    _feed(home, message(1, patient="p-72"), message(2, patient="p-72", value=BAD))
    LaneWithoutKafka(home, topic_id="again").lane.steps.close()  # epoch 2
    (letter,) = _files(home)
    one, two = "0" * 31 + "1", "0" * 31 + "2"
    # Before the fence: of an older epoch, also half renamed, and of the newest. After it: of an overtaken rewrite,
    # and replaced so long ago that the log has forgotten it.
    before = [f"vitals.0of1.e1.{one}-0.parquet", f"vitals.0of1.e1.{two}-0.parquet.part"]
    before.append(f"vitals.0of1.e2.{one}-0.parquet")
    after = [f"rewrite.1.{one}-0.parquet", letter.name.replace("-0.", "-9.")]
    left = [f"vitals.0of1.e2.{two}-0.parquet", f"rewrite.9.{one}-0.parquet", "somebodys.parquet"]
    settings = load_settings(home)
    for name in before:
        shutil.copy(letter, letter.with_name(name))
    search = Search(["p-72"], load_keys(settings.path(settings.keys)), settings=settings)
    for name in [*after, *left]:
        shutil.copy(letter, letter.with_name(name))
    (letter.with_name(f"vitals.0of1.e1.{two}-1.parquet.part")).write_bytes(b"PAR1 half written")
    done = erase_messages(Lake(settings.lake_uri, {}).present()["quarantine/dead_letter"], search)
    assert done.files_deleted == len(before + after) + 1, "and the one that was replaced"
    assert {path.name for path in _files(home)} == {*left, f"vitals.0of1.e1.{two}-1.parquet.part"}


def test_released_messages_go_with_the_rows_that_were_made_of_them(home: Path) -> None:
    ward = Ward(home)
    ward.stream([*(ward.bed(i) for i in range(5)), *(ward.bed(i, "bed-2") for i in range(5, 8)), ward.bed(9, "bed-3")])
    ward.associate("bed-1", "p-72", 0)
    ward.associate("bed-2", "other", 0)
    ward.attribute()
    assert len(list(_messages(home, "held"))) == 9
    assert _of(_erase(home, "p-72"), "held").rows == 5
    left = list(_messages(home, "held"))
    assert len(left) == 4
    assert not [payload for payload in left if b"bed-1" in payload]
    assert _sound(home)
