"""Makes rows of device JSON: one for each value at a path of the profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.formats.fhir.structs import STATUSES
from pipelines.formats.flat.columns import Flags, Floats, Numbers, identifiers, indices_of_words, instants, numbers
from pipelines.formats.flat.profile import FlatProfile, IdentifierPlace, TimePlace, UnitWords, Value
from pipelines.formats.flat.profile_paths import Path
from pipelines.formats.shared.encoded import Encoded, dictionary
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.refusals import Refusals
from pipelines.formats.shared.result import DECODED_SCHEMA, Reject
from pipelines.formats.shared.times import MICROSECONDS, Times

Columns = Mapping[Path, Sequence[Any]]
Indices = npt.NDArray[np.int32]

_FINAL, _MOST_VERSION = STATUSES.index("final"), (1 << 63) - 1  # versions are int64


class Items:
    """Messages, or the readings in them, with the values that the profile declares for each.

    Attributes:
        message: int32 per item, the index of its message.
        present: [item, value] → whether the item has this value.
        seen: per item, whether anything stands at a value's path, even only a sign that the value is absent.
        lacking: [item, value] → whether such a sign stands there.
    """

    def __init__(self, profile: FlatProfile, columns: Columns, message: Indices, owner: Indices | None) -> None:
        """Look for values.

        Args:
            profile: has the paths of the values.
            columns: path → the values there, one entry per message or reading.
            message: int32 per item, the index of its message.
            owner: per reading, the position of its message in the columns; None: the items are messages.
        """
        self.profile, self._columns, self.message, self._owner = profile, columns, message, owner
        self.values = [value for value in profile.values if (value.path.inner is None) == (owner is None)]
        shape = (len(message), len(self.values))
        self.present, self.lacking = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        self._number: Floats = np.full(shape, np.nan)
        self._bad = np.zeros(shape, np.bool_)
        self._comparators: list[Sequence[str | None] | None] = [None] * len(self.values)
        self.seen = np.zeros(len(message), np.bool_)
        self._labels: dict[Path, Encoded[str]] = {}
        read: dict[Path, Numbers] = {}
        for j, value in enumerate(self.values):
            self._look(j, value, read)

    def _look(self, j: int, value: Value, read: dict[Path, Numbers]) -> None:
        column, absent = self._columns[value.path], self.profile.absent
        if value.kind == "text":
            there = np.array([bool(text) and text not in absent for text in column], np.bool_)
        else:
            if value.path not in read:
                read[value.path] = numbers(column, absent)
            self._number[:, j], bad, self._comparators[j] = read[value.path]
            there = ~np.isnan(self._number[:, j]) | bad
            self._bad[:, j] = bad
        given = np.array([thing is not None for thing in column], np.bool_) if absent else there
        self.seen |= given
        lacking = given & ~there
        if value.when is not None:
            label = self.label(value.when.path)
            word = label.values.index(value.when.word) if value.when.word in label.values else -2
            there &= label.index == word
            lacking &= label.index == word
        self.present[:, j], self.lacking[:, j] = there, lacking

    # -- what belongs to each item -------------------------------------------------------------------------------

    def spread(self, values: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
        """Return a value for each item: values of whole messages are repeated for each of their readings."""
        return values if self._owner is None or path.inner is not None else values[self._owner]

    def label(self, path: Path) -> Encoded[str]:
        """Return the word at a path, per item."""
        if path not in self._labels:
            found = identifiers(self._columns[path], IdentifierPlace(path=path))
            self._labels[path] = Encoded(self.spread(found.index, path), found.values, found.refused)
        return self._labels[path]

    def named(self, name: IdentifierPlace | None) -> Encoded[str]:
        """Return the identifier at a place, per item."""
        if name is None:
            return Encoded(np.full(len(self.message), -1, np.int32), [], {})
        found = identifiers(self._columns[name.path], name)
        return Encoded(self.spread(found.index, name.path), found.values, found.refused)

    def times(self, when: TimePlace) -> Times:
        """Return the instant at a place, per item."""
        column = self._columns[when.path]
        if when.absent:
            column = [None if value in when.absent else value for value in column]
        found = instants(column, when.format, self.profile.clock)
        if when.earliest is not None:
            early = ~found.absent & (found.us < int(when.earliest.timestamp() * 1e6))
            found = replace(found, bad=found.bad | early)
        parts = (found.us, found.offset_minutes, found.absent, found.bad)
        return Times(*(self.spread(part, when.path) for part in parts))

    def versions(self, refusals: _Needed) -> npt.NDArray[np.int64]:
        """Return versions, per item; 0 if the message has none."""
        path = self.profile.version
        if path is None:
            return np.zeros(len(self.message), np.int64)
        column = self._columns[path]
        bad = np.array([value is not None and not 0 <= value <= _MOST_VERSION for value in column], np.bool_)
        good = [value if value is not None and 0 <= value <= _MOST_VERSION else 0 for value in column]
        refusals.mark(self.spread(bad, path), Reason.WRONG_SHAPE, path.text)
        return self.spread(np.array(good, np.int64), path)

    def statuses(self, refusals: _Needed) -> Indices:
        """Return statuses, per item, as indices into STATUSES; ``final`` if the message has none."""
        status = self.profile.status
        if status is None:
            return np.full(len(self.message), _FINAL, np.int32)
        meanings = {word: STATUSES.index(meaning) for word, meaning in status.words.items()}
        found = self.spread(
            indices_of_words(self._columns[status.path], meanings, absent=_FINAL, unknown=-1), status.path
        )
        refusals.mark(found < 0, Reason.BAD_STATUS, status.path.text)
        return found

    # -- rows ----------------------------------------------------------------------------------------------------

    def rows(self, rejects: dict[int, Reject]) -> tuple[dict[str, pa.Array], list[bytes | None], Indices]:
        """Return DECODED_SCHEMA's columns, identities, and the message of each row.

        Only rows whose value is reported as absent have a data_absent_reason.
        """
        profile = self.profile
        has_rows: Flags = np.asarray(self.present.any(axis=1), np.bool_)
        needed = _Needed(self.message, has_rows, rejects)
        patient, encounter = self.named(profile.patient), self.named(profile.encounter)
        device, identifier = self.named(profile.device), self.named(profile.id)
        subject = profile.patient or profile.device
        needed.mark((patient.index < 0) & (device.index < 0), Reason.NO_SUBJECT, subject.path.text if subject else "")
        for column in (patient, encounter, device, identifier):
            needed.of(column)
        effective = self.times(profile.time)
        needed.mark(effective.absent, Reason.NO_TIME, profile.time.path.text)
        needed.mark(effective.bad, Reason.BAD_TIME, profile.time.path.text)
        issued = self.times(profile.issued) if profile.issued else None
        if issued is not None and profile.issued is not None:
            needed.mark(issued.bad, Reason.BAD_TIME, profile.issued.path.text)
        versions, statuses = self.versions(needed), self.statuses(needed)
        for j, value in enumerate(self.values):
            needed.mark(self._bad[:, j] & self.present[:, j], Reason.WRONG_SHAPE, value.path.text)
        unread = np.any([np.isin(n.index, [*n.refused]) for n in (patient, encounter, device, identifier)], axis=0)
        lacking = self.lacking & ~unread[:, np.newaxis]
        item, spec = (place.astype(np.int32) for place in np.nonzero(self.present | lacking))
        columns = {
            "version": pa.array(versions[item]),
            "patient_id": dictionary(patient.index[item], patient.values),
            "encounter_id": dictionary(encounter.index[item], encounter.values),
            "device_id": dictionary(device.index[item], device.values),
            "status": dictionary(statuses[item], STATUSES),
            "effective_at": pa.array(effective.us[item]).cast(MICROSECONDS),
            "effective_offset_minutes": pa.array(effective.offset_minutes[item]),
            "issued_at": _issued(issued, item),
            **self._measured(item, spec, needed),
        }
        return columns, self._identities(identifier, item, spec, effective), self.message[item]

    def _measured(self, item: Indices, spec: Indices, needed: _Needed) -> dict[str, pa.Array]:
        values, count = self.values, len(item)
        codes = list(dict.fromkeys(value.code for value in values))
        code = np.array([codes.index(value.code) for value in values] or [0], np.int32)
        factor, offset = np.array([v.factor for v in values] or [1.0]), np.array([v.offset for v in values] or [0.0])
        number = self._number[item, spec] * factor[spec] + offset[spec]
        nothing = dictionary(np.full(count, -1, np.int32), [])
        empty = np.isnan(number)
        return {
            "code": dictionary(code[spec], codes),
            "panel_code": nothing,
            "value": pa.array(number, mask=empty if empty.any() else None),
            "comparator": self._compared(item, spec),
            "unit": self._units(item, spec),
            "value_code": nothing,
            "value_text": self._texts(item, spec, needed),
            "data_absent_reason": dictionary(np.where(self.lacking[item, spec], 0, -1).astype(np.int32), ["unknown"]),
        }

    def _compared(self, item: Indices, spec: Indices) -> pa.DictionaryArray:
        """Return the comparators of numbers that were sent as text."""
        texts: list[str | None] = [None] * len(item)
        for j, comparators in enumerate(self._comparators):
            if comparators is not None:
                for row in np.flatnonzero(spec == j).tolist():
                    texts[row] = comparators[item[row]]
        return pa.array(texts, pa.string()).dictionary_encode()

    def _units(self, item: Indices, spec: Indices) -> pa.DictionaryArray:
        """Return UCUM codes; a word that the profile does not list stays as it is, and fits no code later."""
        known: dict[str, int] = {}
        chosen = np.full(len(item), -1, np.int32)
        for j, value in enumerate(self.values):
            here = spec == j
            if isinstance(value.unit, str):
                chosen[here] = known.setdefault(value.unit, len(known))
            elif isinstance(value.unit, UnitWords):
                label = self.label(value.unit.path)
                texts = [value.unit.words.get(str(word), str(word)) for word in label.values]
                table = np.array([*(known.setdefault(text, len(known)) for text in texts), -1], np.int32)
                chosen[here] = table[label.index[item[here]]]
        return dictionary(chosen, list(known))

    def _texts(self, item: Indices, spec: Indices, needed: _Needed) -> pa.Array:
        texts: list[str | None] = [None] * len(item)
        for j, value in enumerate(self.values):
            if value.kind == "text":
                column = self._columns[value.path]
                for row in np.flatnonzero((spec == j) & self.present[item, spec]).tolist():
                    texts[row] = column[item[row]]
                bad = np.array([text is not None and "\0" in text for text in column], np.bool_)
                needed.mark(bad & self.present[:, j], Reason.CONTROL_CHARACTER, value.path.text)
        return pa.array(texts, pa.string())

    def _identities(
        self, identifier: Encoded[str], item: Indices, spec: Indices, effective: Times
    ) -> list[bytes | None]:
        """Return the identity of each row: the message's or reading's identifier and the code.

        An identifier of a whole message does not distinguish its readings, so their time is added.
        """
        name = self.profile.id
        if name is None:
            return [None] * len(item)
        prefix = f"{len(name.system)}|{name.system}|"
        cut = len(name.system) + 1 if name.system else 0
        bases = [f"{prefix}{text[cut:]}" if text else None for text in (*identifier.values, None)]
        ends = [self._end(value) for value in self.values]
        found = [
            None if (base := bases[i]) is None else f"{base}{ends[j]}".encode()
            for i, j in zip(identifier.index[item].tolist(), spec.tolist(), strict=True)
        ]
        if self._owner is not None and name.path.inner is None:
            moments = effective.us[item].tolist()
            return [base and b"%b|%d" % (base, moment) for base, moment in zip(found, moments, strict=True)]
        return found

    def _end(self, value: Value) -> str:
        twice = [other.code for other in self.values].count(value.code) > 1
        return f"|{value.code}|{value.when.word}" if twice and value.when else f"|{value.code}"


class _Needed(Refusals):
    """Refuses messages for faults in items that have rows; faults in other items do not count."""

    def __init__(self, message: Indices, has_rows: Flags, rejects: dict[int, Reject]) -> None:
        super().__init__(message, rejects)
        self._has_rows = has_rows

    def relevant(self, bad: Flags) -> Flags:
        """Return which of the bad items have rows."""
        return bad & self._has_rows


def _issued(issued: Times | None, item: Indices) -> pa.Array:
    if issued is None:
        return pa.nulls(len(item), MICROSECONDS)
    absent = issued.absent[item]
    return pa.array(issued.us[item], mask=absent if absent.any() else None).cast(MICROSECONDS)


def rows_of(
    several: Sequence[Items], rejects: dict[int, Reject]
) -> tuple[dict[str, pa.Array], list[bytes | None], Indices]:
    """Return the rows of all items (messages and readings) in the order of the messages."""
    several = [items for items in several if items.values] or list(several[:1])
    if len(several) == 1:
        return several[0].rows(rejects)
    batches, identities, message = [], list[bytes | None](), []
    for items in several:
        columns, named, of = items.rows(rejects)
        batches.append(pa.RecordBatch.from_arrays([columns[f.name] for f in DECODED_SCHEMA], schema=DECODED_SCHEMA))
        identities += named
        message.append(of)
    joined = np.concatenate(message)
    order = np.argsort(joined, kind="stable")
    table = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()
    sorted_rows = pc.take(table, pa.array(order)).combine_chunks().to_batches()
    batch = sorted_rows[0] if sorted_rows else batches[0].slice(0, 0)
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    return columns, [identities[i] for i in order.tolist()], joined[order]
