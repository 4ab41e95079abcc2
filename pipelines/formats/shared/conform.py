"""Converts decoded rows to the vocabulary's units, rejects implausible ones, and computes their identity.

The result goes on to the masks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.formats.shared.fingerprint import fingerprints, older_fingerprints
from pipelines.formats.shared.local_codes import NO_LOCAL_CODES, LocalCodes, with_local_codes
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.records import AGAINST_BROKER
from pipelines.formats.shared.refused import RefusedRows, joined, refused_of, refused_of_conformed
from pipelines.formats.shared.result import Decoded, Reject
from pipelines.formats.shared.words import with_parsed_texts
from pipelines.online_store.values import NO_VALUE, TOO_HIGH, TOO_LOW
from vitalake.lake.unlinkable.own_times import given_or_ours
from vitalake.vocabulary import Vocabulary
from vitalake.vocabulary.forms import unit_to_show

ID_BYTES = 16
_EAST_US, _WEST_US = 14 * 3_600_000_000, (24 + 12) * 3_600_000_000
"""A calendar day exists somewhere on Earth from 14 hours before its midnight in UTC until 36 hours after it."""


@dataclass(frozen=True, slots=True)
class Conformed:
    """Valid rows, and the messages that were rejected.

    Attributes:
        rows: columns of the dataset ``observation``, identified, without ingested_at, source and source_position.
        message: int32 per row, index of its message.
        fingerprint: uint64, shape (n, 2): equal for an exact re-send, different for anything else.
        rejects: messages with an invalid row; their ``rows`` is the number of rows that are lost with them.
        older: the fingerprints in the form of an earlier release, if they were asked for and differ.
        refused: the rows of rejected messages, and of messages that report a missing value, without their values: the
            ward must not go on showing the value from before; None: there are none.
        local: the codes of local systems in the poll and their LOINC codes; see local_codes.py.
    """

    rows: pa.RecordBatch
    message: npt.NDArray[np.int32]
    fingerprint: npt.NDArray[np.uint64]
    rejects: list[Reject] = field(default_factory=list)
    older: npt.NDArray[np.uint64] | None = None
    refused: RefusedRows | None = None
    local: LocalCodes = NO_LOCAL_CODES


class Conformer:
    """Conforms decoded rows to the vocabulary; each lane has its own."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        observation_key: bytes,
        max_future_seconds: float,
        min_effective_year: int,
        max_past_days: float = 0.0,
        unset_clock_days: Sequence[date] = (),
        publish_arrival: bool = False,
    ) -> None:
        """Prepare.

        Args:
            vocabulary: codes, units and ranges.
            observation_key: key of the hash in observation_id; never rotated.
            max_future_seconds: rows effective further ahead of the broker's time are rejected.
            min_effective_year: rows effective before this year are rejected.
            max_past_days: rows effective further behind the broker's time are rejected; 0: no limit.
            unset_clock_days: rows of these days, in any time zone, are rejected: unset clocks show them.
            publish_arrival: whether the time of arrival, or of sending, can be published unchanged if the sender gives
                no time of issue.
        """
        self._vocabulary, self._mark = vocabulary, not publish_arrival
        self._hash = hashlib.blake2b(key=observation_key, digest_size=ID_BYTES)
        self._future_us = int(max_future_seconds * 1e6)
        self._earliest_us = int(np.datetime64(f"{min_effective_year:04d}-01-01", "us").astype(np.int64))
        self._past_us = int(max_past_days * 86_400e6)
        self._unset = [int(np.datetime64(day, "us").astype(np.int64)) for day in unset_clock_days]
        self._units = pa.array([*vocabulary.unit_of], pa.string())

    def conform(
        self, decoded: Decoded, *, broker_ms: npt.NDArray[np.int64], now_us: int | None = None, older: bool = False
    ) -> Conformed:
        """Return rows and rejects.

        Args:
            decoded: a decoder's result.
            broker_ms: int64 per message, the broker's timestamp.
            now_us: our clock's time, to decide whether the row's or the broker's time is wrong; None: the row's is.
            older: also make fingerprints in the form of an earlier release.
        """
        message = decoded.message
        rows, local = with_local_codes(decoded.rows, message, self._vocabulary)
        rows, unread = with_parsed_texts(rows, self._vocabulary)
        rows = local.with_units(rows)
        code = self._code_index(rows["code"])
        unit = _index(rows["unit"], self._vocabulary.unit_index, absent=self._vocabulary.no_unit)
        factor = self._vocabulary.factor[code, unit]
        value = rows["value"].to_numpy(zero_copy_only=False) * factor + self._vocabulary.offset[code, unit]
        effective = rows["effective_at"].cast(pa.int64()).to_numpy()
        broker_us = broker_ms[message] * 1000
        measured = rows["value"].is_valid().to_numpy(zero_copy_only=False)
        known = code >= 0
        fits = ~measured | ~np.isnan(factor)
        plausible = ~measured | ~fits | ~known | self._vocabulary.plausible(code, value)
        latest = broker_us + self._future_us
        past = effective >= self._earliest_us
        timely = past & (effective <= (latest if now_us is None else np.maximum(latest, now_us + self._future_us)))
        timely &= self._set_clock(effective, broker_us)
        issued = rows["issued_at"].cast(pa.int64()).fill_null(self._earliest_us).to_numpy()
        in_time = (issued >= self._earliest_us) & (issued <= latest)
        rejects = _rejects(
            message,
            (
                (known, Reason.UNKNOWN_CODE, "Observation.code"),
                *(((~unread, Reason.NUMBER_IN_WORDS, "Observation.value[x]"),) if unread is not None else ()),
                (
                    fits,
                    Reason.UNKNOWN_UNIT,
                    lambda row: unit_path(rows["code"][row].as_py(), rows["unit"][row].as_py()),
                ),
                (plausible, Reason.IMPLAUSIBLE_VALUE, "Observation.valueQuantity.value"),
                (timely, Reason.IMPLAUSIBLE_TIME, "Observation.effective[x]"),
                (effective <= latest, Reason.IMPLAUSIBLE_TIME, f"Observation.effective[x]{AGAINST_BROKER}"),
                (in_time, Reason.IMPLAUSIBLE_TIME, "Observation.issued"),
            ),
        )
        identities, refused = decoded.identities, None
        if rejects:
            good = ~np.isin(message, np.fromiter((r.message for r in rejects), np.int32, len(rejects)))
            given = rows["issued_at"].is_valid().to_numpy(zero_copy_only=False) & in_time
            refused = self._refused(
                np.flatnonzero(~good),
                rows,
                decoded,
                signs=np.where(plausible, NO_VALUE, np.where(value < self._vocabulary.least[code], TOO_LOW, TOO_HIGH)),
                effective_us=np.where(timely & (effective <= latest), effective, broker_us),
                available_us=np.where(given, issued, broker_us),
            )
            rows, message, code, value = rows.filter(pa.array(good)), message[good], code[good], value[good]
            measured, broker_us = measured[good], broker_us[good]
            identities = [identity for identity, ok in zip(identities, good.tolist(), strict=True) if ok]
        value = np.where(measured, value, np.nan)
        conformed = self._conformed(
            rows, identities, message, code, value, broker_us, rejects, older=older, stamped=decoded.stamped
        )
        if decoded.ended is not None:
            refused = joined(refused, self._ended(decoded.ended, broker_ms))
        return _without_contradictions(replace(conformed, refused=refused, local=local))

    def _refused(
        self,
        bad: npt.NDArray[np.intp],
        rows: pa.RecordBatch,
        decoded: Decoded,
        *,
        signs: npt.NDArray[np.float64],
        effective_us: npt.NDArray[np.int64],
        available_us: npt.NDArray[np.int64],
    ) -> RefusedRows:
        """Return what is kept of the rows ``bad``, whose messages are rejected; other arguments are of all rows."""
        of_bad = rows.take(pa.array(bad))
        ids, _ = self._identify(of_bad, [decoded.identities[row] for row in bad.tolist()])
        return refused_of(of_bad, ids, signs[bad], effective_us[bad], available_us[bad], decoded.message[bad])

    def _ended(self, ended: Decoded, broker_ms: npt.NDArray[np.int64]) -> RefusedRows:
        """Return the rows that report a missing value: they end the value that the ward showed before."""
        rows, _ = with_local_codes(ended.rows, ended.message, self._vocabulary)
        broker_us = broker_ms[ended.message] * 1000
        effective = rows["effective_at"].cast(pa.int64()).to_numpy()
        timely = (effective >= self._earliest_us) & (effective <= broker_us + self._future_us)
        timely &= self._set_clock(effective, broker_us)
        issued = rows["issued_at"].cast(pa.int64()).fill_null(self._earliest_us - 1).to_numpy()
        given = (issued >= self._earliest_us) & (issued <= broker_us + self._future_us)
        ids, _ = self._identify(rows, ended.identities)
        return refused_of(
            rows,
            ids,
            np.full(len(rows), NO_VALUE),
            np.where(timely, effective, broker_us),
            np.where(given, issued, broker_us),
            ended.message,
        )

    def _code_index(self, column: pa.DictionaryArray) -> npt.NDArray[np.int64]:
        codes = self._vocabulary.codes
        return _index(column, lambda text: codes.get(text, -1))

    def _set_clock(self, effective: npt.NDArray[np.int64], broker_us: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return which times are plausible for a clock that was set."""
        plausible = np.ones(len(effective), np.bool_)
        if self._past_us:
            plausible &= effective >= broker_us - self._past_us
        if len(effective) and self._unset and effective.min() < max(self._unset) + _WEST_US:
            for day in self._unset:
                plausible &= (effective < day - _EAST_US) | (effective >= day + _WEST_US)
        return plausible

    def _conformed(
        self,
        rows: pa.RecordBatch,
        identities: list[bytes | None],
        message: npt.NDArray[np.int32],
        code: npt.NDArray[np.int64],
        value: npt.NDArray[np.float64],
        broker_us: npt.NDArray[np.int64],
        rejects: list[Reject],
        *,
        older: bool,
        stamped: bool,
    ) -> Conformed:
        ids, panels = self._identify(rows, identities)
        empty = np.isnan(value)
        columns = {name: rows[name] for name in rows.schema.names if name not in ("panel_code", "issued_at")}
        columns |= {
            "observation_id": ids,
            "panel_id": panels,
            "code": rows["code"],
            "value": pa.array(value, mask=empty if empty.any() else None),
            "unit": self._published_unit(code, empty),
            "available_at": given_or_ours(rows["issued_at"], broker_us, mark=self._mark, stamped=stamped),
            **self._coded(rows),
        }
        prints = fingerprints(ids, rows, value, columns["unit"])
        also = older_fingerprints(ids, rows, value, columns["unit"]) if older and rows["issued_at"].null_count else None
        batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        return Conformed(batch, message, prints, rejects, also)

    def _published_unit(self, code: npt.NDArray[np.int64], empty: npt.NDArray[np.bool_]) -> pa.DictionaryArray:
        mask = empty if empty.any() else None
        return pa.DictionaryArray.from_arrays(pa.array(code.astype(np.int32), mask=mask), self._units)

    def _coded(self, rows: pa.RecordBatch) -> dict[str, pa.Array]:
        """Return the columns of coded values; an unknown code becomes a text."""
        columns: dict[str, pa.Array] = {}
        absent, coded = rows["data_absent_reason"], rows["value_code"]
        if absent.null_count < len(rows):
            reasons = [self._vocabulary.absent_reason(text) for text in absent.dictionary.to_pylist()]
            columns["data_absent_reason"] = pa.DictionaryArray.from_arrays(
                absent.indices, pa.array(reasons, pa.string())
            )
        if coded.null_count < len(rows):
            texts = coded.dictionary.to_pylist()
            codes = pa.array([text if self._vocabulary.is_known_code(text) else None for text in texts], pa.string())
            columns["value_code"] = codes.take(coded.indices).dictionary_encode()  # the same Arrow type in every poll
            columns["value_text"] = pc.coalesce(
                rows["value_text"], pc.if_else(columns["value_code"].is_null(), coded.cast(pa.string()), None)
            )
        return columns

    # -- identity ------------------------------------------------------------------------------------------------

    def _identify(self, rows: pa.RecordBatch, identities: list[bytes | None]) -> tuple[pa.Array, pa.Array]:
        """Return observation_id and panel_id of the rows.

        The hash covers the sender's identifier and the component's code. Without an identifier it covers patient, code,
        component and time; without a patient as well, the device takes the patient's place. It never covers value,
        status or position, so that a correction has the same id as the row that it corrects.
        """
        single = rows["panel_code"].null_count == len(rows)
        if single and None not in identities:
            return _binary(self._hash_all(identities)), pa.nulls(len(rows), pa.binary())  # type: ignore[arg-type]
        components = rows["panel_code"].is_valid().to_pylist()
        codes = rows["code"].to_pylist()
        bases = self._bases(rows, identities)
        texts = [
            b"%b\0%b" % (base, code.encode()) if component else base
            for base, code, component in zip(bases, codes, components, strict=True)
        ]
        hashed = self._hash_all([base for base, component in zip(bases, components, strict=True) if component])
        panels = iter(hashed)
        return _binary(self._hash_all(texts)), pa.array(
            [next(panels) if component else None for component in components], pa.binary()
        )

    def _bases(self, rows: pa.RecordBatch, identities: list[bytes | None]) -> list[bytes]:
        if None not in identities:
            return identities  # type: ignore[return-value]
        patients, times = rows["patient_id"].to_pylist(), rows["effective_at"].cast(pa.int64()).to_pylist()
        owners = [f"-|{len(patient)}|{patient}" if patient is not None else None for patient in patients]
        if None in owners:
            owners = [
                f"-device|{len(device or '')}|{device}" if owner is None else owner
                for owner, device in zip(owners, rows["device_id"].to_pylist(), strict=True)
            ]
        codes = pc.coalesce(rows["panel_code"].cast(pa.string()), rows["code"].cast(pa.string())).to_pylist()
        return [
            identity if identity is not None else f"{owner}|{code}|{us}".encode()
            for identity, owner, code, us in zip(identities, owners, codes, times, strict=True)
        ]

    def _hash_all(self, texts: list[bytes]) -> list[bytes]:
        # Copying a keyed hash state costs two thirds of creating one.
        copy = self._hash.copy
        digests = []
        for text in texts:
            state = copy()
            state.update(text)
            digests.append(state.digest())
        return digests


def _binary(digests: list[bytes]) -> pa.Array:
    offsets = np.arange(len(digests) + 1, dtype=np.int32) * ID_BYTES
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(digests))]
    return pa.Array.from_buffers(pa.binary(), len(digests), buffers)


def _index(column: pa.DictionaryArray, known: Callable[[str], int], *, absent: int = -1) -> npt.NDArray[np.int64]:
    """Return for each row the index of its text; ``absent`` for null.

    An unknown text has the index -1: the last row of the vocabulary's tables.
    """
    lookup = np.array([*map(known, column.dictionary.to_pylist()), absent], np.int64)
    indices = pc.fill_null(column.indices, len(lookup) - 1) if column.null_count else column.indices
    result: npt.NDArray[np.int64] = lookup[indices.to_numpy(zero_copy_only=False)]
    return result


def _without_contradictions(conformed: Conformed) -> Conformed:
    """Reject messages with two different rows for one version of an observation.

    One row would hide the other, and an attribution that moves one of them to another patient could not tell them
    apart. The HL7 v2 decoder refuses two results with one name for the same reason. Equal rows are duplicates.
    """
    bad = _contradicting(conformed)
    if not len(bad):
        return conformed
    rejects = [*conformed.rejects, *(Reject(i, Reason.WRONG_SHAPE, "Observation.identifier") for i in bad.tolist())]
    good = ~np.isin(conformed.message, bad)
    return Conformed(
        conformed.rows.filter(pa.array(good)),
        conformed.message[good],
        conformed.fingerprint[good],
        sorted(rejects, key=lambda reject: reject.message),
        None if conformed.older is None else conformed.older[good],
        refused_of_conformed(conformed.rows, conformed.message, ~good, conformed.refused),
        conformed.local,
    )


def _contradicting(conformed: Conformed) -> npt.NDArray[np.int32]:
    """Return the messages that hold two different rows for one version of an observation."""
    message = conformed.message
    if not (message[1:] == message[:-1]).any():  # the rows of a message are adjacent
        return message[:0]
    halves = np.frombuffer(conformed.rows["observation_id"].buffers()[2], np.uint64, count=2 * len(message))
    # Fast path: halves of a keyed hash are practically distinct, so without equal ones no two rows have one id.
    candidates = np.sort(halves[::2] ^ message.astype(np.uint64))
    if not (candidates[1:] == candidates[:-1]).any():
        return message[:0]
    version = conformed.rows["version"].to_numpy(zero_copy_only=False)
    order = np.lexsort((version, halves[1::2], halves[::2], message))
    same = np.ones(len(order) - 1, np.bool_)
    for column in (message, halves[::2], halves[1::2], version):
        same &= column[order][1:] == column[order][:-1]
    differ = (conformed.fingerprint[order][1:] != conformed.fingerprint[order][:-1]).any(axis=1)
    return np.unique(message[order][1:][same & differ])


def unit_path(code: str, unit: str | None) -> str:
    """Return the path of a unit that does not fit its code, with the code and the unit.

    The code is one of the vocabulary; ``unit_to_show`` hides a text that is not a unit.
    """
    return f"Observation.valueQuantity.code ({code} in {unit_to_show(unit)})"


def _rejects(
    message: npt.NDArray[np.int32],
    checks: tuple[tuple[npt.NDArray[np.bool_], Reason, str | Callable[[int], str]], ...],
) -> list[Reject]:
    """Return one reject for each message with a bad row; the first check that fails gives the reason.

    If a path depends on the row, the first bad row of the message gives it.
    """
    reasons: dict[int, tuple[Reason, str]] = {}
    for passed, reason, path in checks:
        if not passed.all():
            for row in np.flatnonzero(~passed).tolist():
                i = int(message[row])
                if i not in reasons:
                    reasons[i] = (reason, path if isinstance(path, str) else path(row))
    if not reasons:
        return []
    rows = np.bincount(message)
    return [Reject(i, reason, path, int(rows[i])) for i, (reason, path) in sorted(reasons.items())]
