"""The restricted zone: each identifying value is sealed with the patient's own key."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from governance.belonging import open_vault
from governance.keyservice import KeyRevoked
from governance.vault import PatientKey, Vault
from governance.vault import sealed_rows as restricted
from governance.vault.sealed_rows import (
    FORMAT,
    WORDS,
    PatientKeys,
    RowSealer,
    device_key,
    open_value,
    sealed_word,
    subject_of_value,
)
from pipelines.core.poll import DecodedPoll, Outcome, Poll
from pipelines.formats.fhir.observations import FhirDecoder
from pipelines.intake.steps import Steps, make_sealer
from tests.fhir import message
from vitalake import clock
from vitalake.errors import PrivacyError
from vitalake.keys import KeyRing, load_keys
from vitalake.lake.commits.span import PartId
from vitalake.lake.datasets.dataset import IDENTIFYING, restricted_form
from vitalake.lake.datasets.declared import dataset_names, load_dataset
from vitalake.settings import Settings, StreamSettings, load_settings

OBSERVATION = load_dataset("observation")
NAME = "restricted/observation"


@pytest.fixture
def settings(home: Path) -> Settings:
    return load_settings(home)


@pytest.fixture
def keys(settings: Settings) -> KeyRing:
    return load_keys(settings.path(settings.keys))


@pytest.fixture
def vault(settings: Settings, keys: KeyRing) -> Any:
    vault = open_vault(settings, keys)
    yield vault
    vault.close()


@pytest.fixture
def sealer(vault: Vault, keys: KeyRing) -> RowSealer:
    return make_sealer(OBSERVATION, vault, keys)


def _rows(patients: list[str], devices: list[str | None]) -> pa.RecordBatch:
    count = len(patients)
    columns = {
        "observation_id": pa.array([bytes([i]) * 16 for i in range(count)]),
        "version": pa.array(range(count), pa.int64()),
        "patient_id": pa.array(patients).dictionary_encode(),
        "device_id": pa.array(devices, pa.string()),
        "value": pa.array(np.arange(count, dtype=np.float64)),
        "effective_at": pa.array([1_700_000_000_000_000] * count, pa.timestamp("us", "UTC")),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _taken(home: Path, messages: list[bytes | None]) -> Outcome:
    steps = Steps(load_settings(home), StreamSettings(care=False), OBSERVATION)
    count = len(messages)
    poll = Poll(
        shard="vitals/0of1",
        format="fhir",
        values=messages,
        parts=(PartId("vitals", "0123456789abcdefghijkl", 0),),
        part=np.zeros(count, np.int32),
        offset=np.arange(count),
        broker_ms=np.full(count, clock.now_us() // 1000),
    )
    try:
        return steps.mask(steps.conform(DecodedPoll(poll, FhirDecoder(precise=False).decode(messages))))
    finally:
        steps.close()


def test_rows_come_back_as_they_were(sealer: RowSealer) -> None:
    rows = _rows(["a", "b", "a", "c"], ["m1", None, "m1", "m2"])
    sealed, kept = sealer.seal(rows)
    assert kept is None
    opened = sealer.open(pa.Table.from_batches([sealed]))
    for name in rows.schema.names:
        assert opened[name].to_pylist() == rows[name].to_pylist(), name
    assert opened.schema == OBSERVATION.schema


def test_words_in_a_closed_column_are_sealed_whatever_its_class(home: Path, vault: Vault, keys: KeyRing) -> None:
    """Under the class provenance they stayed in clear, in every copy of the file, after the patient was erased."""
    (home / "datasets").mkdir()
    (home / "datasets" / "answer.yaml").write_text(
        "name: answer\nkind: record\nkey: [answer_id, version]\nday_of: said_at\ncolumns:\n"
        "  - {name: answer_id, type: binary, class: record-identifier, hashed: true, description: x}\n"
        "  - {name: sent_by, type: string, class: provenance, values: [ward], description: x}\n"
        "  - {name: said_at, type: timestamp, class: date-of-service, description: x}\n"
    )
    load_settings(home)
    sealer = make_sealer(load_dataset("answer"), vault, keys)
    given = {"patient_id": ["a", "a"], "sent_by": ["Zzname", "ward"], "source": ["odd topic", "t[0]"]}
    rows = pa.RecordBatch.from_pydict({**given, "answer_id": [b"1" * 16, b"2" * 16]})
    sealed, _ = sealer.seal(rows)
    words = sealed["sent_by"].cast(pa.string()).to_pylist()
    assert words[0].startswith(restricted.WORDS) and words[1] == "ward"
    assert sealed["source"].cast(pa.string()).to_pylist() == given["source"]
    assert sealer.open(pa.Table.from_batches([sealed]))["sent_by"].to_pylist() == given["sent_by"]


def test_text_left_in_dictionaries_stands_there_once(sealer: RowSealer) -> None:
    sealed, _ = sealer.seal(_rows(["a", "b", "a", "c"], ["m1", None, "m1", "m1"]))
    rows = pa.Table.from_batches([sealed])
    opened = sealer.open(rows, encoded=True)
    assert opened.cast(OBSERVATION.schema).equals(sealer.open(rows))
    assert len(opened["patient_id"].combine_chunks().dictionary) == 3
    assert opened["device_id"].combine_chunks().dictionary.to_pylist() == ["m1"], "though sealed for a and for c"


def test_nothing_of_who_was_forgotten_is_opened(sealer: RowSealer, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed, _ = sealer.seal(_rows(["a", "b", "a"], ["m1", "m2", "m1"]))
    rows = pa.Table.from_batches([sealed])
    gone = rows["subject"].to_pylist()[0]
    monkeypatch.setattr(sealer, "_keys", _Keys(sealer._keys, without=gone))
    for encoded in (False, True):
        opened = sealer.open(rows, encoded=encoded)
        assert opened["patient_id"].to_pylist() == ["b"]
    assert opened["device_id"].combine_chunks().dictionary.to_pylist() == ["m2"], "not even in a dictionary"
    moved = rows.set_column(0, "subject", pa.array([rows["subject"].to_pylist()[1]] * 3)).slice(1, 2)
    assert sealer.open(moved, encoded=True)["patient_id"].to_pylist() == ["b", None], "another's value stays shut"


def test_opening_stops_when_the_keys_are_revoked_meanwhile(sealer: RowSealer, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed, _ = sealer.seal(_rows([f"p{i}" for i in range(9)], [None] * 9))
    keys = _Keys(sealer._keys, answers=3)
    monkeypatch.setattr(sealer, "_keys", keys)
    monkeypatch.setattr(restricted, "OPENED", 2)
    with pytest.raises(KeyRevoked):
        sealer.open(pa.Table.from_batches([sealed]))


class _Keys:
    """A vault that knows fewer patients, or that fails after a number of calls."""

    def __init__(self, keys: PatientKeys, *, without: bytes = b"", answers: int = 1000) -> None:
        self._keys, self._without, self._answers = keys, without, answers

    def enrol(self, patients: Sequence[tuple[str, str]]) -> list[PatientKey | None]:
        raise NotImplementedError

    def secrets(self, subjects: Iterable[bytes]) -> dict[bytes, bytes]:
        self._answers -= 1
        if self._answers < 0:
            raise KeyRevoked("Wrapping key is revoked", where="a test", remedy="None.")
        found = self._keys.secrets(subjects)
        return {subject: secret for subject, secret in found.items() if subject != self._without}


def test_every_dataset_that_is_kept_seals_all_that_identifies() -> None:
    kept = [load_dataset(name) for name in dataset_names() if load_dataset(name).restricted]
    assert {dataset.name for dataset in kept} >= {"observation", "patient", "encounter", "ward_movement", "condition"}
    for dataset in kept:
        for column in restricted_form(dataset).columns:
            if column.data_class in IDENTIFYING:
                assert column.type == pa.binary()
                assert not column.statistics
                assert not column.values


def test_dates_are_sealed_and_opened_too(vault: Vault, keys: KeyRing) -> None:
    dataset = load_dataset("patient")
    sealer = make_sealer(dataset, vault, keys)
    columns = {
        "patient_id": pa.array(["a", "b", "c", "d"]),
        "version": pa.array([1, 1, 1, 1], pa.int64()),
        "name": pa.array(["Doe, Jane", None, None, None]),
        "birth_date": pa.array([-3650, None, -719_162, 2_932_896], pa.date32()),  # the years 1 and 9999
    }
    sealed, _ = sealer.seal(pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns)))
    opened = sealer.open(pa.Table.from_batches([sealed]))
    assert opened["birth_date"].to_pylist() == columns["birth_date"].to_pylist()
    assert opened["name"].to_pylist() == ["Doe, Jane", None, None, None]


def test_a_value_names_its_patient_by_subject_only_and_is_bound_to_its_column(sealer: RowSealer, vault: Vault) -> None:
    sealed, _ = sealer.seal(_rows(["patient-one"], ["monitor-one"]))
    value = sealed["device_id"].to_pylist()[0]
    subject = vault.subject_of("patient-one")
    assert sealed["subject"].to_pylist() == [subject]
    assert subject_of_value(value) == subject
    secrets = vault.secrets([subject])
    assert open_value(value, secrets, context=b"observation.device_id") == b"monitor-one"
    assert open_value(value, {}, context=b"observation.device_id") is None
    with pytest.raises(PrivacyError, match=r"observation\.patient_id"):
        open_value(value, secrets, context=b"observation.patient_id")
    with pytest.raises(PrivacyError):
        open_value(b"\x02" + value[len(FORMAT) :], secrets, context=b"observation.device_id")


def test_a_device_is_found_by_its_key_whoever_wears_it(sealer: RowSealer, keys: KeyRing) -> None:
    sealed, _ = sealer.seal(_rows(["a", "b", "c"], ["m1", "m1", None]))
    expected = device_key(keys.current("vault").secret, "m1")
    assert sealed["device_key"].to_pylist() == [expected, expected, None]
    first, second, _ = sealed["device_id"].to_pylist()
    assert first != second, "each with the key of the patient"


def test_equal_values_of_one_patient_are_sealed_once(sealer: RowSealer) -> None:
    first, _ = sealer.seal(_rows(["a"] * 5, ["m1"] * 5))
    again, _ = sealer.seal(_rows(["b", "a"], ["m1", "m1"]))
    assert len(set(first["device_id"].to_pylist())) == 1
    assert again["device_id"].to_pylist()[1] == first["device_id"].to_pylist()[0]


def test_patients_of_rejected_messages_are_not_enrolled(sealer: RowSealer, vault: Vault) -> None:
    patients = pa.DictionaryArray.from_arrays(pa.array([1, 1], pa.int32()), pa.array(["never", "seen"]))
    rows = _rows(["x", "x"], [None, None]).set_column(2, "patient_id", patients)
    sealer.seal(rows)
    assert list(vault.tokens()) == [vault.subject_of("seen")]


def test_the_lane_keeps_what_it_publishes_and_what_a_rule_leaves_out(home: Path) -> None:
    outcome = _taken(home, [message(1), message(2, status="registered"), message(3)])
    assert outcome.rows.num_rows == 2
    assert len(outcome.filtered) == 1
    sealed = outcome.extra[NAME]
    assert sealed.num_rows == 3, "another rule may publish it one day"
    assert set(sealed.schema.names) == set(restricted_form(OBSERVATION).schema.names)


def test_no_identifier_is_in_any_byte_of_the_sealed_rows(home: Path, tmp_path: Path) -> None:
    outcome = _taken(home, [message(i) for i in range(20)])
    path = tmp_path / "rows.arrow"
    with pa.ipc.new_file(path, outcome.extra[NAME].schema) as file:
        file.write(outcome.extra[NAME])
    content = path.read_bytes()
    settings = load_settings(home)
    keys = load_keys(settings.path(settings.keys))
    vault = open_vault(settings, keys)
    opened = make_sealer(OBSERVATION, vault, keys).open(pa.Table.from_batches([outcome.extra[NAME]]))
    vault.close()
    names = ("patient_id", "device_id", "encounter_id")
    named = {value for name in names for value in opened[name].to_pylist()} - {None}
    assert named
    assert not [value for value in named if value.encode() in content]


# -- words in columns for codes


CONDITION = load_dataset("condition")
SAID = ["I10", "I10 ZZNAME 555-0100", "I509", f"{WORDS}{base64.b64encode(FORMAT + b'ZZNAME' * 10).decode()}"]


def _coded(codes: Sequence[str | None], *, encoded: bool) -> pa.RecordBatch:
    texts = pa.array(codes, pa.string())
    columns = {
        "encounter_id": pa.array(["e-1"] * len(codes)),
        "code_system": pa.array(["ICD10CM"] * len(codes)),
        "code": texts.dictionary_encode() if encoded else texts,
        "patient_id": pa.array(["p-1", "p-2"] * (len(codes) // 2)),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


@pytest.mark.parametrize("encoded", [True, False])
def test_words_in_a_column_for_codes_are_sealed_and_codes_are_not(
    vault: Vault, keys: KeyRing, *, encoded: bool
) -> None:
    sealer = make_sealer(CONDITION, vault, keys)
    sealed, _ = sealer.seal(_coded(SAID, encoded=encoded))
    plain, _ = sealer.seal(_coded(["I10", "I509"], encoded=encoded))
    assert sealed.schema == plain.schema  # so that polls can become one table
    texts = sealed["code"].to_pylist()
    assert [text.startswith(WORDS) for text in texts] == [False, True, False, True]  # also what only looks sealed
    assert "ZZNAME" not in str([sealed_word(text) for text in texts])
    assert make_sealer(CONDITION, vault, keys).open(pa.Table.from_batches([sealed]))["code"].to_pylist() == SAID
    again, _ = make_sealer(CONDITION, vault, keys).seal(_coded(SAID, encoded=encoded))
    assert again["code"].to_pylist() == texts  # the same in every version of one thing
    assert sealed_word("sealed:no base64") is None


def test_words_that_an_earlier_release_left_in_clear_are_sealed_once(vault: Vault, keys: KeyRing) -> None:
    sealer = make_sealer(CONDITION, vault, keys)
    sealed = pa.Table.from_batches([sealer.seal(_coded(["I10", "I509"] * 3, encoded=True))[0]])
    codes = [*SAID[:3], SAID[3], None, "I10 ZZNAME 555-0100"]
    before = sealed.set_column(sealed.schema.get_field_index("code"), "code", pa.array(codes).dictionary_encode())
    before = before.set_column(
        before.schema.get_field_index("subject"),
        "subject",
        pa.array([*before["subject"].to_pylist()[:5], b"nobody's subject"], pa.binary()),
    )
    after = sealer.seal_words(before)
    assert "ZZNAME" not in str([sealed_word(text) or text for text in after["code"].to_pylist()])
    assert sealer.open(after)["code"].to_pylist() == codes[:5]
    assert after["code"].to_pylist()[5] is None  # the key of its patient is destroyed
    assert sealer.seal_words(after) is after
    assert sealer.seal_words(sealed) is sealed
