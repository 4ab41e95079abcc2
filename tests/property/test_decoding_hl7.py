"""HL7 v2, however it is written: nothing raises, a message is whole or nothing, and the form makes no difference."""

from __future__ import annotations

from typing import Any

import hl7
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.formats.hl7.text import messages_of
from pipelines.formats.shared.encoded import Refused
from tests.decoding import decoder_of, take_by
from tests.hl7 import OBR, PID, adt, obx, oru
from tests.hostile_hl7 import CORPUS

SEPARATORS = st.permutations("|^~\\&#@!$*%;:=<>/?").map(lambda marks: "".join(marks[:5]))
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=8)
FIELDS = st.lists(st.lists(st.lists(TEXTS, min_size=1, max_size=3), min_size=1, max_size=3), min_size=1, max_size=2)


def render(segments: list[list[Any]], marks: str) -> str:
    """Return segments of fields of repetitions of components of subcomponents, written with these separators."""
    field, component, repetition, escape, subcomponent = list(marks)
    names = {field: "F", component: "S", repetition: "R", escape: "E", subcomponent: "T"}

    def plain(text: str) -> str:
        return "".join(f"{escape}{names[mark]}{escape}" if mark in names else mark for mark in text)

    def written(part: Any, level: int) -> str:
        if isinstance(part, str):
            return plain(part)
        return (repetition, component, subcomponent)[level].join(written(inner, level + 1) for inner in part)

    head = f"MSH{field}{component}{repetition}{escape}{subcomponent}{field}"
    lines = [field.join(written(part, 0) for part in segment) for segment in segments]
    return head + "\r".join(lines) + "\r"


def message(marks: str, *, patient: str, value: str, note: str, filler: str) -> bytes:
    """Return a message of two results with texts of anybody's choice."""
    header = ["MON", "ICU", "", "", "20250601100001+0200", "", [["ORU", "R01"]], "1", "P", "2.6"]
    pid = ["PID", "1", "", [[patient, "", "", ["HOSP", "1.2.3", "ISO"], "MR"], ["9", "", "", "X"]]]
    order = ["OBR", "1", "", [[filler, "MON"]], "", "", "", "20250601100000"]
    number = ["OBX", "1", "NM", [["8867-4", "Rate", "LN"]], "1", value, [["/min", "", "UCUM"]], *[""] * 4, "F"]
    words = ["OBX", "2", "TX", [["72514-3", "Pain", "LN"]], "2", [[note], ["more"]], *[""] * 5, "F"]
    return render([header, pid, order, number, words], marks).encode()


def fate(*messages: bytes) -> tuple[list[dict[str, Any]], list[Any]]:
    """Return the rows of messages and the reasons of those that are rejected."""
    _, conformed, rejects = take_by(decoder_of("hl7-v2"), messages)
    return conformed.rows.to_pylist(), [(i, reject.reason) for i, reject in sorted(rejects.items())]


@given(marks=SEPARATORS, patient=TEXTS, note=TEXTS, filler=TEXTS, value=st.integers(20, 300).map(str))
@example(marks="|^~\\&", patient="a|b", note="c~d\\e", filler="&^", value="72")
def test_other_separators_are_the_same_rows(marks: str, patient: str, note: str, filler: str, value: str) -> None:
    def said(separators: str) -> tuple[list[dict[str, Any]], list[Any]]:
        return fate(message(separators, patient=patient, note=note, filler=filler, value=value))

    assert said(marks) == said("|^~\\&")


@given(name=st.sampled_from(sorted(CORPUS)))
def test_framed_or_not_is_the_same(name: str) -> None:
    payload = CORPUS[name][0]
    if b"\x0b" not in payload and b"\x1c" not in payload and len(payload) < 500_000:
        assert fate(b"\x0b" + payload + b"\x1c\r") == fate(payload)


@given(name=st.sampled_from(sorted(CORPUS)), end=st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\r\r\n"]))
def test_whatever_ends_a_segment_is_the_same(name: str, end: bytes) -> None:
    payload = CORPUS[name][0]
    if b"\n" not in payload and len(payload) < 500_000:
        assert fate(payload.replace(b"\r", end)) == fate(payload)


@given(segments=st.lists(st.lists(FIELDS, max_size=4), max_size=4), marks=SEPARATORS)
def test_fields_are_those_that_python_hl7_finds(segments: list[list[Any]], marks: str) -> None:
    named = [["A", "B", "", "", ""], *(["ZAA", *fields] for fields in segments)]
    text = render(named, marks)
    try:
        (ours,) = messages_of(text.encode())
    except Refused:
        return
    theirs = hl7.parse(text)
    dialect = ours[0].dialect
    assert [segment.name for segment in ours] == [str(segment[0]) for segment in theirs]
    for mine, other in zip(ours[1:], theirs[1:], strict=True):
        assert mine.fields[1:] == [str(field) for field in other[1:]]
        for number, field in enumerate(segments[ours.index(mine) - 1], start=1):
            found = [
                [[dialect.plain(s) for s in c.split(dialect.separators.subcomponent)] for c in dialect.components(r)]
                for r in dialect.repetitions(mine.fields[number])
            ]
            assert found == [[["" if text == '""' else text for text in c] for c in _deep(r)] for r in field]


def _deep(repetition: list[Any]) -> list[list[str]]:
    return [component if isinstance(component, list) else [component] for component in repetition]


@given(data=st.data())
def test_nothing_raises_and_a_message_is_whole_or_nothing(data: st.DataObject) -> None:
    pool = [m for m, _ in CORPUS.values() if len(m) < 5_000] + [adt("A01", PID), oru(obx(1, sub="1"), obx(2, sub="2"))]
    payloads = data.draw(st.lists(st.sampled_from(pool), min_size=1, max_size=5))
    place = data.draw(st.integers(0, max(len(payloads[0]) - 1, 0)))
    cut = data.draw(st.integers(0, 30))
    junk = data.draw(st.binary(max_size=5) | st.sampled_from([b"|", b"^", b"\\", b"\r", b"OBX", b"\x0b"]))
    hurt = payloads[0][:place] + junk + payloads[0][place + cut :]
    decoded, conformed, rejects = take_by(decoder_of("hl7-v2"), [hurt, *payloads[1:]])
    assert not set(conformed.message.tolist()) & set(rejects)
    alone = [take_by(decoder_of("hl7-v2"), [payload]) for payload in (hurt, *payloads[1:])]
    rows = [row for _, part, _ in alone for row in part.rows.to_pylist()]
    assert conformed.rows.to_pylist() == rows, "neighbours change nothing, and the order is kept"
    for other in ("hl7-v2", "device_association"):
        if other != "hl7-v2":
            decoder_of("hl7-v2", dataset=other).decode([hurt, *payloads])
    assert len(decoded.message) >= len(conformed.message)


@given(payload=st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: b"MSH|^~\\&|" + tail))
@example(payload=b"MSH|^~\\&|A|B|||20250601||ORU^R01\r" + OBR.encode())
def test_bytes_of_any_kind_are_survived(payload: bytes) -> None:
    for dataset in ("observation", "device_association"):
        decoded = decoder_of("hl7-v2", dataset=dataset).decode([payload])
        assert len(decoded.rejects) + len(decoded.empty) + len(set(decoded.message.tolist())) == 1
