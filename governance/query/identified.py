"""Opens the cells of an answer over identified rows: the sandbox returns them sealed, the patients' keys are here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import pyarrow as pa

from governance.query.errors import untraceable
from governance.query.relations import SEALED
from governance.vault.sealed_rows import open_value, sealed_word, subject_of_value
from vitalake.errors import PrivacyError

_WRAPPED = pa.struct({SEALED: pa.binary()})


class Keys(Protocol):
    """Gives patients' keys; the vault does."""

    def secrets(self, subjects: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the secrets of the subjects that are known and not forgotten."""
        ...


def refuse_whole_rows(rows: pa.Table) -> None:
    """Refuse an answer with a whole row in one value: the cells in it cannot be told apart.

    Raises:
        QueryRefused: a value is a row. The sandbox refuses such a query before it reads a row, but an attacker may
            control the sandbox.
    """
    if any(pa.types.is_nested(column.type) and column.type != _WRAPPED for column in rows.columns):
        raise untraceable("a whole row in one value")


class Cells:
    """The sealed cells of an answer; each sealed value names its subject.

    Attributes:
        owners: the subjects of all cells.
    """

    def __init__(self, rows: pa.Table, sealed: Mapping[str, pa.DataType]) -> None:
        """Find the sealed cells.

        Args:
            rows: the answer, as the sandbox returned it.
            sealed: ``<dataset>.<column>`` → type, of what the query could read. A column of the answer may hold values
                of any of them. Each value was sealed for one column, and opens with that column's name only.
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
        """Return the secrets of the cells' owners.

        Raises:
            KeyRevoked: the keys are not available.
        """
        return keys.secrets(self.owners)

    def opened(self, secrets: Mapping[bytes, bytes]) -> pa.Table:
        """Return the answer with its cells opened; those of forgotten patients are null.

        Raises:
            PrivacyError: a value was changed, or was sealed for another column.
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
        """Return a column of text with its sealed words opened."""
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
        """Return the column that a value was sealed for, and the opened value; two Nones: its patient is forgotten."""
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
    """Return text → sealed bytes, for the texts of a column that are sealed words."""
    words = {text: sealed_word(text) for text in column.unique().to_pylist()}
    return {text: sealed for text, sealed in words.items() if sealed is not None}


def _values(column: pa.DictionaryArray) -> list[bytes]:
    return [value for value in column.dictionary.to_pylist() if value is not None]
