"""Masks: masking twice is masking once, and no identifier that went in comes out, in any byte."""

from __future__ import annotations

import base64
import datetime
import hmac
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.policy.masking import MaskPlan, compile_masks
from governance.policy.masks import CACHE_ENTRIES, Pseudonyms, fits, make_mask, mask_kinds
from governance.policy.rules import Then, load_policy, read_then
from governance.samples import __file__ as samples
from vitalake.keys import Key, KeyRing
from vitalake.lake.datasets.declared import load_dataset

KEYS = KeyRing(
    {"pseudonym": (Key("pseudonym", "v1", b"1" * 32), Key("pseudonym", "v2", b"2" * 32))}, {"pseudonym": "v1"}
)
LATER = KeyRing(KEYS.keys, {"pseudonym": "v2"})

_COLUMNS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): st.text(max_size=12),
    pa.float64(): st.floats(allow_nan=False, allow_infinity=False),
    pa.int64(): st.integers(-(2**62), 2**62),
    pa.timestamp("us", "UTC"): st.datetimes(
        min_value=datetime.datetime(1900, 1, 1),  # noqa: DTZ001 - Hypothesis adds the zone
        max_value=datetime.datetime(2200, 1, 1),  # noqa: DTZ001
        timezones=st.just(datetime.UTC),
    ),
    pa.binary(): st.binary(max_size=8),
}
_OPTIONS: dict[str, dict[str, Any]] = {"generalise": {"unit": "day"}, "round": {"digits": 1}, "cap": {"at": 90}}
_THENS = [read_then({"mask": mask} | _OPTIONS.get(mask, {})) for mask in mask_kinds()]


@st.composite
def _column(draw: st.DrawFn) -> pa.Array:
    kind = draw(st.sampled_from(list(_COLUMNS)))
    return pa.array(draw(st.lists(st.none() | _COLUMNS[kind], max_size=8)), kind)


@pytest.mark.parametrize("then", _THENS, ids=lambda then: str(then.mask))
@given(column=_column())
def test_masking_twice_is_masking_once_and_keeps_the_type(column: pa.Array, then: Then) -> None:
    mask = make_mask(then, keys=KEYS, domain="patient-identifier")
    once = mask(column)
    assert fits(then, column.type, "patient-identifier") or once.null_count == len(column), (
        "what does not fit is dropped, not passed"
    )
    assert once.type == column.type
    assert len(once) == len(column)
    assert mask(once).equals(once)


@given(values=st.lists(st.none() | st.text(max_size=6), max_size=20))
def test_dictionary_encoded_and_plain_columns_get_the_same(values: list[str | None]) -> None:
    plain = pa.array(values, pa.string())
    for then in _THENS:
        mask = make_mask(then, keys=KEYS, domain="d")
        assert mask(plain.dictionary_encode()).cast(pa.string()).equals(mask(plain))


@given(values=st.lists(st.text(max_size=12), max_size=8))
def test_a_token_is_what_two_plain_digests_make_of_the_value(values: list[str]) -> None:
    def digest(purpose: bytes, value: bytes) -> bytes:
        return hmac.digest(b"1" * 32, purpose + b"\x11device-identifier" + value, "sha256")

    def token(value: str) -> str:
        tag = digest(b"id", value.encode())[:16]
        return "v1." + base64.b32encode(tag + digest(b"check", tag)[:4]).decode().lower()

    masked = Pseudonyms(KEYS, "device-identifier")(pa.array(values, pa.string()))
    assert masked.to_pylist() == [token(value) for value in values]


def test_tokens_differ_by_value_domain_and_key_version() -> None:
    a, b = Pseudonyms(KEYS, "patient-identifier"), Pseudonyms(KEYS, "device-identifier")
    later = Pseudonyms(LATER, "patient-identifier")
    tokens = {a.token("1"), a.token("2"), b.token("1"), later.token("1")}
    assert len(tokens) == 4
    assert a.token("1") == Pseudonyms(KEYS, "patient-identifier").token("1")
    assert later.token(a.token("1")) == a.token("1"), "an older version's token is one too"


def test_a_look_alike_is_masked_like_anything_else() -> None:
    masked = Pseudonyms(KEYS, "patient-identifier")
    real = masked.token("1")
    for fake in ("v1." + "a" * 32, real[:-1] + ("a" if real[-1] != "a" else "b"), "v9" + real[2:], real.upper()):
        assert masked.token(fake) != fake
    assert Pseudonyms(KEYS, "device-identifier").token(real) != real, "of another class it is none"


def test_the_cache_is_bounded() -> None:
    masked = Pseudonyms(KEYS, "patient-identifier")
    masked(pa.array([str(i) for i in range(CACHE_ENTRIES + 10)]))
    masked(pa.array(["x"]))
    assert len(masked._cache) < 10
    masked(pa.array(["y", None]))
    assert masked._cache == {value: masked.token(value) for value in "xy"}, "and is used until it is full"
    masked._cache["x"] = "as it was made before"
    assert masked(pa.array(["x"])).to_pylist() == ["as it was made before"]
    masked._cache.clear()


def test_a_retired_keys_tokens_are_masked_whatever_another_home_of_this_process_remembers() -> None:
    old = Pseudonyms(KEYS, "patient-identifier").token("1")
    retired = KeyRing({"pseudonym": LATER.keys["pseudonym"][1:]}, {"pseudonym": "v2"})
    assert Pseudonyms(LATER, "patient-identifier")(pa.array([old])).to_pylist() == [old]
    masked = Pseudonyms(retired, "patient-identifier")(pa.array([old]))
    assert masked.to_pylist() == [Pseudonyms(retired, "patient-identifier").token(old)] != [old]


@pytest.fixture(scope="module")
def plan() -> MaskPlan:
    return compile_masks(load_policy(Path(samples).parent), load_dataset("observation"), KEYS)


_MARKER = st.integers(0, 10**9).map(lambda n: f"Zz{n:010d}zZ")


@given(markers=st.lists(_MARKER, min_size=4, max_size=4, unique=True), rows=st.integers(1, 5))
def test_no_planted_identifier_is_in_any_byte_of_what_is_published(
    plan: MaskPlan, tmp_path_factory: pytest.TempPathFactory, markers: list[str], rows: int
) -> None:
    patient, encounter, device, text = markers
    batch = pa.RecordBatch.from_pydict(
        {
            "patient_id": [patient] * rows,
            "encounter_id": [encounter] * rows,
            "device_id": [device] * rows,
            "value_text": [text] * rows,
            "status": ["final"] * rows,
            "surprise": [patient] * rows,
        }
    )
    masked, kept, _ = plan.apply(batch)
    assert kept is None
    assert masked.schema.equals(load_dataset("observation").schema)
    path = tmp_path_factory.mktemp("masked") / "x.parquet"
    pq.write_table(pa.Table.from_batches([masked]), path, compression="none")
    content = path.read_bytes()
    assert not [m for m in markers if m.encode() in content]
    again = plan.apply(masked).rows
    assert again.equals(masked)


@given(rows=st.lists(st.tuples(*[st.none() | st.sampled_from(["a", "b", "amended", "cancelled"])] * 3), min_size=1))
def test_text_left_in_dictionaries_is_masked_the_same(plan: MaskPlan, rows: list[tuple[str | None, ...]]) -> None:
    names = ("patient_id", "value_text", "status")
    plain = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
    batch = pa.RecordBatch.from_arrays(plain, names=list(names))
    encoded = pa.RecordBatch.from_arrays([column.dictionary_encode() for column in plain], names=list(names))
    masked, kept, unfit = plan.apply(batch)
    told = {name: bad.tolist() for name, bad in unfit.items()}
    for given_rows in (batch, encoded):
        got, got_kept, got_unfit = plan.apply(given_rows, encoded=True)
        assert got.schema.field("patient_id").type == pa.dictionary(pa.int32(), pa.string())
        assert pa.Table.from_batches([got]).cast(masked.schema).equals(pa.Table.from_batches([masked]))
        assert (got_kept is None) == (kept is None)
        assert {name: bad.tolist() for name, bad in got_unfit.items()} == told
        assert kept is None or (got_kept is not None and got_kept.tolist() == kept.tolist())


def test_filtered_rows_are_left_out_and_told(plan: MaskPlan) -> None:
    statuses = ["final", "cancelled", None, "registered", "amended"]
    for column in (pa.array(statuses), pa.array(statuses).dictionary_encode()):
        masked, kept, _ = plan.apply(pa.RecordBatch.from_arrays([column], names=["status"]))
        assert kept is not None
        assert kept.tolist() == [True, True, True, False, True]
        assert masked["status"].to_pylist() == ["final", "cancelled", None, "amended"]
    without, kept, _ = plan.apply(pa.RecordBatch.from_pydict({"value": [1.0]}))
    assert kept is None
    assert without.num_rows == 1


def test_a_batch_without_the_filters_column_is_not_filtered_and_without_its_codes_neither(plan: MaskPlan) -> None:
    _, kept, _ = plan.apply(pa.RecordBatch.from_pydict({"value": [1.0]}))
    assert kept is None
    column = pa.array(["final", "amended"]).dictionary_encode()
    _, kept, _ = plan.apply(pa.RecordBatch.from_arrays([column], names=["status"]))
    assert kept is None


def test_a_mask_that_does_not_fit_the_type_drops() -> None:
    number = pa.array([1.5, None])
    for then in map(read_then, ({"mask": "redact"}, {"mask": "pseudonym"}, {"mask": "generalise", "unit": "day"})):
        assert make_mask(then, keys=KEYS, domain="d")(number).null_count == 2
    words = pa.array(["x"])
    assert make_mask(read_then({"mask": "round", "digits": 1}), keys=KEYS, domain="d")(words).null_count == 1
