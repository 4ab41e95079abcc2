"""What a home adds to the vocabulary never changes what becomes of a message that does not use it."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.decoding import decoder_of, take, take_by
from tests.fhir import observation
from tests.hl7 import obx, oru
from tests.vocabularies import LAB, declare
from vitalake import declarations
from vitalake.vocabulary import load_vocabulary, shipped_vocabulary
from vitalake.vocabulary.forms import LinearPattern, own_form
from vitalake.vocabulary.openness import UNLIMITED, openness
from vitalake.vocabulary.overlap import Automaton, overlap

SHIPPED = shipped_vocabulary()
CODES = st.sampled_from([*SHIPPED.codes, *SHIPPED.panels, "99999-5", "NEW", "glu"])
SYSTEMS = st.sampled_from(
    ["http://loinc.org", "http://loinc.org", "http://snomed.info/sct", "http://other.example", ""]
)
UNITS = st.one_of(
    st.sampled_from([*SHIPPED.units]),
    st.sampled_from([*SHIPPED.units]).map(str.upper),
    st.text(max_size=6),
)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A FHIR Observation that uses nothing of the home's."""
    codings = draw(st.lists(st.fixed_dictionaries({"system": SYSTEMS, "code": CODES}), max_size=3))
    quantity: dict[str, Any] = {"value": draw(st.floats(-1e3, 1e6)), "code": draw(UNITS)}
    changes: dict[str, Any] = {"code": {"coding": codings}}
    if draw(st.booleans()):
        changes["valueQuantity"] = quantity
    else:
        changes |= {"valueQuantity": None, "valueString": f"{quantity['value']} {quantity['code']}"}
    return json.dumps(observation(1, **changes)).encode()


def results() -> st.SearchStrategy[bytes]:
    """An HL7 v2 message that uses nothing of the home's."""
    plain = UNITS.map(lambda unit: "".join(sign for sign in unit if sign.isprintable() and sign not in "|^~\\&\r\n"))
    system = st.sampled_from(["LN", "LN", "MDC", "L", "99OTHER", ""])
    code = st.tuples(CODES, system).map(lambda pair: f"{pair[0]}^text^{pair[1]}")
    return st.builds(lambda *given: oru(obx(code=given[0], unit=given[1], value=given[2])), code, plain,
                     st.sampled_from(["72", "5.4", "<3", "positive"]))  # fmt: skip


def _fates(values: list[bytes], name: str) -> list[Any]:
    decoded, conformed, rejects = take(values) if name == "fhir" else take_by(decoder_of(name), values)
    assert not conformed.local.mapped
    assert not conformed.local.unmapped
    rows = conformed.rows.to_pylist()
    return [decoded.rows.to_pylist(), rows, conformed.message.tolist(), conformed.fingerprint.tolist(), rejects]


@given(st.lists(messages(), min_size=1, max_size=5), st.lists(results(), min_size=1, max_size=5))
def test_adding_a_vocabulary_changes_the_fate_of_no_message_that_does_not_use_it(
    tmp_path_factory: Any, of_fhir: list[bytes], of_hl7: list[bytes]
) -> None:
    home: Path = tmp_path_factory.getbasetemp() / "with-vocabulary"
    for values, name in ((of_fhir, "fhir"), (of_hl7, "hl7-v2")):
        declarations.use(None)
        before = _fates(values, name)
        declare(home, LAB)
        assert _fates(values, name) == before


_PIECES = [*"AB01-[]^(){},|?*+.$é _/&~:d\\", "[A-B", "{1,2}", "\\d", "\\w", "[:alpha:]", "(?:", "\\.", "--", "&&"]


@given(
    st.lists(st.sampled_from(_PIECES), min_size=1, max_size=9).map("".join),
    st.lists(st.text("AB01-[]^(){},|.$&:é _/d", max_size=5), min_size=5, max_size=50),
)
def test_whatever_is_taken_as_a_pattern_is_read_alike_by_who_measures_it_and_who_matches_it(
    pattern: str, texts: list[str]
) -> None:
    found = LinearPattern(pattern)
    try:
        openness(pattern)
        found.check()
    except ValueError:
        return
    assert [found.fullmatch(text) for text in texts] == [
        re.fullmatch(pattern, text, re.ASCII) is not None for text in texts
    ]


def test_every_conversion_of_what_ships_stays(tmp_path: Path) -> None:
    declare(tmp_path, LAB)
    found = load_vocabulary()
    assert found.units.keys() > SHIPPED.units.keys()
    for text, i in SHIPPED.units.items():
        for code, row in SHIPPED.codes.items():
            now = found.factor[found.codes[code], found.units[text]], found.offset[found.codes[code], found.units[text]]
            assert np.array_equal(now, (SHIPPED.factor[row, i], SHIPPED.offset[row, i]), equal_nan=True)


_PARTS = st.sampled_from(
    ["[0-9]{2}", "[0-9]{1,2}", "[0-9]{4}", "19", "-", "[./]", r"\.?", " ", "(?:-|/)+", "T", "Mai", "5"]
)
_SEPARATORS = st.sampled_from(["", "-", ".", ". ", "/", " ", "T"])


@given(
    st.lists(_PARTS, min_size=1, max_size=7).map("".join),
    st.dates(date(1900, 1, 1), date(2039, 12, 31)),
    _SEPARATORS,
    _SEPARATORS,
    st.sampled_from(["%Y{}%m{}%d", "%d{}%m{}%Y", "%d{}%m{}%y", "%m{}%d{}%y", "%y{}%m{}%d", "%d{}Mai{}%Y"]),
)
def test_no_form_that_is_taken_has_a_date(pattern: str, day: date, one: str, two: str, order: str) -> None:
    """Patterns are compared with patterns of dates. Matched one by one, the dates of calendars must agree."""
    try:
        form = own_form(pattern)
    except ValueError:
        return
    written = day.strftime(order.format(one, two))
    left = openness(pattern).digits
    if left >= (3 if "%Y" in order and one and two else 5) and bool(one) == bool(two):
        assert not form.fits(written), (pattern, written)


@given(st.lists(st.sampled_from(_PIECES), min_size=1, max_size=6).map("".join), st.text("AB01-.", max_size=4))
def test_a_text_that_a_pattern_has_is_found_in_common_with_it(pattern: str, text: str) -> None:
    try:
        left = openness(pattern)
    except ValueError:
        return
    if max(left) < UNLIMITED and "^" not in pattern and "$" not in pattern:
        matches = re.fullmatch(pattern, text, re.ASCII) is not None
        assert overlap(Automaton(pattern), Automaton(re.escape(text))) is matches
