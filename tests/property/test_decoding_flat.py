"""Device JSON by profile: nothing raises, a message is whole or nothing, and rows are what a plain reading gives."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.decoding import decoder_of, take_by
from tests.hostile_flat import GATEWAY, MONITOR, flat

MONITOR_CODES = {
    ("hr",): "8867-4", ("spo2",): "59408-5", ("rr",): "9279-1", ("nibp", "sys"): "8480-6", ("nibp", "dia"): "8462-4",
    ("nibp", "map"): "8478-0",
}  # fmt: skip
NUMBERS = st.none() | st.integers(20, 100) | st.floats(20, 100, allow_nan=False) | st.sampled_from([-1, -32768])
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PATHS = st.sampled_from(
    [
        ("monitor",), ("monitor", "serial"), ("patient",), ("stay",), ("seq",), ("taken",), ("hr",), ("nibp",),
        ("nibp", "sys"), ("id",), ("temp_f",), ("zz",),
    ]
)  # fmt: skip


@given(
    values=st.lists(
        st.fixed_dictionaries({}, optional={name: NUMBERS for name in ("hr", "spo2", "rr", "sys", "dia", "map")}),
        max_size=5,
    )
)
def test_rows_are_what_a_plain_reading_gives(values: list[dict[str, float | None]]) -> None:
    messages, expected = [], []
    for i, said in enumerate(values):
        nibp = {name: said[name] for name in ("sys", "dia", "map") if name in said}
        plain = {name: said[name] for name in ("hr", "spo2", "rr") if name in said}
        document = {**json.loads(flat()), "hr": None, "spo2": None, "nibp": nibp, **plain}  # noqa: TID251
        messages.append(json.dumps(document).encode())
        for path, code in MONITOR_CODES.items():
            found: Any = document
            for step in path:
                found = found.get(step) if found else None
            if found is not None and found not in (-1, -32768):
                expected.append((i, code, float(found)))
    decoded = decoder_of("flat:bedside-monitor").decode(messages)
    codes, numbers = decoded.rows["code"].to_pylist(), decoded.rows["value"].to_pylist()
    assert list(zip(decoded.message.tolist(), codes, numbers, strict=True)) == expected


@given(path=PATHS, value=JSON, extra=st.dictionaries(st.text(max_size=4), JSON, max_size=2))
def test_nothing_raises_whatever_stands_where(path: tuple[str, ...], value: Any, extra: dict[str, Any]) -> None:
    document = json.loads(flat())  # noqa: TID251
    target = document
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    hurt = json.dumps({**extra, **document}).encode("utf-8", "surrogatepass")
    _, conformed, rejects = take_by(decoder_of("flat:bedside-monitor"), [flat(), hurt, flat(hr=80)])
    assert not set(conformed.message.tolist()) & set(rejects)
    around = [row for i, row in zip(conformed.message.tolist(), conformed.rows.to_pylist(), strict=True) if i != 1]
    assert around == take_by(decoder_of("flat:bedside-monitor"), [flat(), flat(hr=80)])[1].rows.to_pylist()


@given(data=st.data(), profile=st.sampled_from(["bedside-monitor", "gateway-readings", "ward-scale"]))
def test_neighbours_and_polls_do_not_change_a_messages_fate(data: st.DataObject, profile: str) -> None:
    pool = [m for m, _ in (*MONITOR.values(), *GATEWAY.values()) if len(m) < 50_000]
    payloads = data.draw(st.lists(st.sampled_from(pool) | st.binary(max_size=30), max_size=8))
    decoder = decoder_of(f"flat:{profile}")
    _, together, rejects = take_by(decoder, payloads)
    alone = [take_by(decoder, [payload]) for payload in payloads]
    assert together.rows.to_pylist() == [row for _, part, _ in alone for row in part.rows.to_pylist()]
    assert {i: r.reason for i, r in rejects.items()} == {
        i: found[0].reason for i, (_, _, found) in enumerate(alone) if found
    }
