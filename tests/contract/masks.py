"""The contract of a mask: derive a class from ``MaskContract`` for each, and let pytest collect it.

A package that brings a mask has a checkout of vitalake on its path for its tests (``PYTHONPATH=vitalake``)::

    from tests.contract.masks import MaskContract

    class TestBand(MaskContract):
        kind = band.MASK
        options = ({"width": 10},)
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any, ClassVar

import msgspec
import pyarrow as pa
import pytest

from governance.policy.masks import Mask, MaskKey, MaskKind
from governance.policy.masks.base import BY_TOKEN
from governance.policy.masks.making import guarded
from vitalake.keys import Key, KeyRing

KEYS = KeyRing({"pseudonym": (Key("pseudonym", "v1", b"1" * 32),)}, {"pseudonym": "v1"})
OTHER_KEYS = KeyRing({"pseudonym": (Key("pseudonym", "v1", b"2" * 32),)}, {"pseudonym": "v1"})
OUTSIDE = "a class that nothing is for"

COLUMNS: dict[pa.DataType, list[Any]] = {
    pa.string(): ["Zz0000000001zZ", None, "", "ß µ 日本", "Zz0000000001zZ", " blank ", "x" * 300],
    pa.float64(): [36.61, None, -0.055, 1e300, 36.61, float("nan"), 4711.5],
    pa.int64(): [4711, None, -3, 2**53 + 1, 4711, 0],
    pa.int16(): [471, None, -3, 32_767, 471],
    pa.timestamp("us", "UTC"): [
        datetime.datetime(2026, 3, 1, 12, 34, 56, 789, tzinfo=datetime.UTC), None,
        datetime.datetime(1901, 1, 1, 0, 0, 1, tzinfo=datetime.UTC),
    ],
    pa.date32(): [datetime.date(1956, 7, 8), None],
    pa.binary(): [b"Zz0000000001zZ", None, b""],
    pa.bool_(): [True, None, False],
}  # fmt: skip
"""Values of every type that a column may have; a null and a value that stands twice among them."""


class MaskContract:
    """What every mask must hold to, with each of some options.

    Attributes:
        kind: the mask.
        options: as a rule would give them; at least one.
    """

    kind: ClassVar[MaskKind]
    options: ClassVar[tuple[dict[str, Any], ...]]

    @property
    def data_class(self) -> str:
        """A class that the mask is for."""
        return min(self.kind.classes) if self.kind.classes else "patient-identifier"

    def _made(self, keys: KeyRing = KEYS, data_class: str = "") -> Iterator[Mask]:
        assert self.options, "give the options of at least one rule"
        for options in self.options:
            key = MaskKey(self.kind.name, keys, data_class or self.data_class)
            yield self.kind.make(msgspec.convert(options, self.kind.options), key)

    def _columns(self) -> list[pa.Array]:
        plain = [pa.array(values, kind) for kind, values in COLUMNS.items()]
        every = [*plain, pa.array(COLUMNS[pa.string()], pa.string()).dictionary_encode()]
        taken = [column for column in every if self.kind.fits(column.type, self.data_class)]
        assert taken, "it accepts no type"
        return taken

    def test_it_says_what_it_is(self) -> None:
        assert self.kind.name and self.kind.description
        assert 0 <= self.kind.rank <= 60
        config = self.kind.options.__struct_config__
        assert config.frozen and config.forbid_unknown_fields
        assert self.kind.classes is None or not self.kind.classes & BY_TOKEN

    def test_an_unknown_option_is_refused(self) -> None:
        for options in self.options:
            with pytest.raises(msgspec.ValidationError):
                msgspec.convert(options | {"no_such_option": 1}, self.kind.options)

    def test_a_class_that_it_is_not_for_is_not_taken(self) -> None:
        assert self.kind.classes is None or not self.kind.fits(self._columns()[0].type, OUTSIDE)

    def test_the_same_values_give_the_same_and_the_input_stays(self) -> None:
        for mask, again in zip(self._made(), self._made(), strict=True):
            for column in self._columns():
                before = column.to_pylist()
                assert str(mask(column).to_pylist()) == str(again(column).to_pylist()) == str(mask(column).to_pylist())
                assert str(column.to_pylist()) == str(before)

    def test_one_that_keeps_values_distinct_makes_no_two_equal(self) -> None:
        for mask in self._made():
            for column in self._columns() if self.kind.distinct else []:
                given, masked = (list(map(repr, values.to_pylist())) for values in (column, mask(column)))
                assert len(set(given)) == len(set(masked))

    def test_length_and_type_stay_and_null_is_null(self) -> None:
        for mask in self._made():
            for column in self._columns():
                masked = mask(column)
                assert len(masked) == len(column)
                assert _plain(masked).type == _plain(column).type
                assert all(
                    out is None for given, out in zip(column, masked.to_pylist(), strict=True) if not given.is_valid
                )

    def test_an_empty_column_and_one_of_nulls_stay_what_they_are(self) -> None:
        for mask in self._made():
            for column in self._columns():
                assert len(mask(column[:0])) == 0
                nulls = pa.nulls(3, column.type)
                assert mask(nulls).null_count == 3

    def test_parts_give_what_the_whole_gives(self) -> None:
        for mask in self._made():
            for column in self._columns():
                whole = _plain(mask(column)).to_pylist()
                for size in (1, 2):
                    parts = [mask(column.slice(at, size)) for at in range(0, len(column), size)]
                    assert str([value for part in parts for value in part.to_pylist()]) == str(whole)

    def test_text_in_a_dictionary_gives_what_plain_text_gives(self) -> None:
        text = pa.array(COLUMNS[pa.string()], pa.string())
        if self.kind.fits(text.type, self.data_class):
            for mask in self._made():
                assert _plain(mask(text.dictionary_encode())).to_pylist() == _plain(mask(text)).to_pylist()

    def test_masking_twice_is_masking_once(self) -> None:
        for mask in self._made():
            for column in self._columns():
                once = mask(column)
                assert str(mask(once).to_pylist()) == str(once.to_pylist())

    def test_no_value_survives_unless_it_says_so(self) -> None:
        if self.kind.keeps:
            return
        for mask in self._made():
            for column in self._columns():
                given = {str(value) for value in column.to_pylist() if value not in (None, "", b"")}
                said = "\0".join(str(value) for value in mask(column).to_pylist() if value is not None)
                assert not [value for value in given if value in said]

    def test_a_keyed_one_differs_by_key_and_by_class_and_another_by_neither(self) -> None:
        for mask, other, elsewhere in zip(
            self._made(), self._made(OTHER_KEYS), self._made(data_class="another class"), strict=True
        ):
            for column in self._columns():
                made = [str(one(column).to_pylist()) for one in (mask, other, elsewhere)]
                assert len(set(made)) == (3 if self.kind.keyed else 1)

    def test_of_no_type_it_fails_and_what_it_is_not_for_is_dropped(self) -> None:
        for mask in self._made():
            checked = guarded(self.kind, mask, data_class=self.data_class)
            for kind, values in COLUMNS.items():
                column = pa.array(values, kind)
                masked = checked(column)
                assert self.kind.fits(kind, self.data_class) or masked.null_count == len(column)


def _plain(column: pa.Array) -> pa.Array:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
