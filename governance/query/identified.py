"""The cells of an answer over identified rows: sealed as the sandbox gives them, opened here with patients' keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import pyarrow as pa

from governance.query.errors import untold
from governance.query.relations import SEALED
from governance.vault.sealed_rows import open_value, sealed_word, subject_of_value
from vitalake.errors import PrivacyError

_WRAPPED = pa.struct({SEALED: pa.binary()})


class Keys(Protocol):
    """Where patients' keys are: the vault."""

    def secrets(self, subjects: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the secrets of those that are known and not forgotten."""
        ...


def refuse_whole_rows(rows: pa.Table) -> None:
    """Stop where a whole row stands in one value of an answer, whose cells cannot be told apart.

    Raises:
        QueryRefused: it does. The sandbox refuses that before it reads a row; but it may have been taken over.
    """
    if any(pa.types.is_nested(column.type) and column.type != _WRAPPED for column in rows.columns):
        raise untold("a whole row in one value")


class Cells:
    """The sealed cells of an answer; they tell themselves whose they are.

    Attributes:
        owners: their subjects.
    """

    def __init__(self, rows: pa.Table, sealed: Mapping[str, pa.DataType]) -> None:
        """Look for them.

        Args:
            rows: the answer, as the sandbox gave it.
            sealed: ``<dataset>.<column>`` → type, of what the query could read. A column of the answer may hold values
                of any of them: they were sealed for their place, so that each opens in one only.
        """
        self._rows, self._sealed = rows, sealed
        self._cells = {
            place: column.combine_chunks().field(SEALED).dictionary_encode()
            for place, column in enumerate(rows.columns)
            if column.type == _WRAPPED
        }
        self._words = {
            place: words
            for place, column in enumerate(rows.columns)
            if pa.types.is_string(column.type) and (words := _words(column))
        }
        self.owners = {subject_of_value(value) for cells in self._cells.values() for value in _values(cells)}
        self.owners |= {subject_of_value(value) for words in self._words.values() for value in words.values()}

    def secrets(self, keys: Keys) -> dict[bytes, bytes]:
        """Return the secrets of those whose cells these are.

        Raises:
            KeyRevoked: the keys cannot be had.
        """
        return keys.secrets(self.owners)

    def opened(self, secrets: Mapping[bytes, bytes]) -> pa.Table:
        """Return the answer with its cells opened; those of forgotten patients are null.

        Raises:
            PrivacyError: a value was changed, or is none of these places'.
        """
        columns = [
            self._open(self._cells[place], secrets)
            if place in self._cells
            else self._with_words(column, self._words.get(place, {}), secrets)
            for place, column in enumerate(self._rows.columns)
        ]
        return pa.table(columns, names=self._rows.schema.names)

    def _with_words(
        self, column: pa.ChunkedArray, words: Mapping[str, bytes], secrets: Mapping[bytes, bytes]
    ) -> pa.ChunkedArray:
        """Return a column of text with the words opened that are sealed in it."""
        if not words:
            return column
        opened = {text: self._value(sealed, secrets)[1] for text, sealed in words.items()}
        return pa.chunked_array([[opened.get(text, text) for text in column.to_pylist()]], pa.string())

    def _open(self, column: pa.DictionaryArray, secrets: Mapping[bytes, bytes]) -> pa.Array:
        values: list[str | None] = []
        places: set[str] = set()
        for sealed in column.dictionary.to_pylist():
            place, value = self._value(sealed, secrets)
            values.append(value)
            places |= {place} if place else set()
        kinds = {self._sealed[place] for place in places}
        texts = pa.array(values, pa.string())
        return (texts.cast(kinds.pop()) if len(kinds) == 1 else texts).take(column.indices)

    def _value(self, sealed: bytes, secrets: Mapping[bytes, bytes]) -> tuple[str | None, str | None]:
        """Return for which place a value was sealed, and itself; neither, if its patient is forgotten."""
        for place in self._sealed:
            try:
                value = open_value(sealed, dict(secrets), context=place.encode())
            except PrivacyError:
                continue
            return (None, None) if value is None else (place, value.decode())
        raise PrivacyError(
            "Sealed value cannot be opened",
            where="vitalake sql --identified",
            remedy="It was changed in its file. Run 'vitalake lake verify'.",
        )


def _words(column: pa.ChunkedArray) -> dict[str, bytes]:
    """Return the texts of a column that are sealed words → what they are."""
    found = {text: sealed_word(text) for text in column.unique().to_pylist()}
    return {text: sealed for text, sealed in found.items() if sealed is not None}


def _values(column: pa.DictionaryArray) -> list[bytes]:
    return [value for value in column.dictionary.to_pylist() if value is not None]
