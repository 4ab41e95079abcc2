"""Seals and opens identified rows: each identifying value is encrypted with the patient's own key.

The files stay ordinary Parquet: delta-rs maintains them without a key, and any engine reads the other values. When a
patient's key is destroyed, all identifying values of the patient become unreadable, in every copy.

Free text in a column for codes is sealed too, because somebody may have typed a name into it: a text that the column
may not hold is replaced by ``sealed:`` and base64. Permitted texts stay in clear.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from governance.vault import PatientKey
from vitalake.errors import PrivacyError
from vitalake.lake.datasets.classes import CLASSES
from vitalake.lake.datasets.dataset import DEVICE_KEY, IDENTIFYING, SUBJECT, Dataset, restricted_form
from vitalake.lake.tables.dictionaries import as_type, in_dictionaries, without_unused

FORMAT = b"\x01"
"""First byte of a sealed value: subject, nonce, ciphertext and tag follow."""

SUBJECT_BYTES = 16
IDENTIFIERS = frozenset(name for name, of in CLASSES.items() if of.repeats)
"""Classes whose equal values seal to equal bytes, so that the versions of a stay are found without a key."""

WORDS = "sealed:"
"""The prefix of a sealed text in a column whose other texts are in clear."""

Unfit = Callable[[pa.RecordBatch], npt.NDArray[np.bool_] | None]
"""Which rows hold text that a column may not; None: no row does. See governance/policy/closed_text.py."""

REMEMBERED = 200_000
"""Sealed values cached for each column, about 30 MB: a patient's device and stay come again in every poll."""

OPENED = 50_000
"""Values opened between two checks that the keys are not revoked; opening them takes a tenth of a second."""

_NONCE_BYTES = 12
_TAG_BYTES = 16
_HEAD_BYTES = len(FORMAT) + SUBJECT_BYTES


class PatientKeys(Protocol):
    """The part of the vault that gives patients' keys."""

    def enrol(self, patients: Sequence[tuple[str, str]]) -> list[PatientKey | None]:
        """Return the key of each patient (source id, pseudonym), and make one for new patients; None: erased."""
        ...

    def secrets(self, subjects: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the secrets of the subjects who are known and not erased."""
        ...


def device_key(secret: bytes, device_id: str) -> bytes:
    """Return the keyed hash, 16 bytes, by which a device's rows are found.

    Args:
        secret: of the key ``vault``.
        device_id: as the source writes it.
    """
    return hmac.digest(secret, b"device\0" + device_id.encode(), hashlib.sha256)[:SUBJECT_BYTES]


class RowSealer:
    """Seals and opens the rows of one dataset; used by one thread at a time."""

    def __init__(
        self,
        dataset: Dataset,
        keys: PatientKeys,
        *,
        secret: bytes,
        tokens_of: Callable[[pa.Array], pa.Array],
        unfit: Mapping[str, Unfit],
    ) -> None:
        """Prepare.

        Args:
            dataset: of the rows; it has a patient column.
            keys: the vault.
            secret: of the key ``vault``, for device_key.
            tokens_of: source ids → pseudonyms.
            unfit: column → finds the rows whose text must be sealed.
        """
        self._dataset, self._keys, self._secret, self._tokens_of = dataset, keys, secret, tokens_of
        self._form = restricted_form(dataset)
        self._patient = next(c.name for c in dataset.columns if c.data_class == "patient-identifier")
        self._device = next((c.name for c in dataset.columns if c.data_class == "device-identifier"), None)
        self._sealed = {c.name: c.type for c in dataset.columns if c.data_class in IDENTIFYING}
        self._unfit = unfit
        self._ciphers: dict[bytes, tuple[AESGCM, bytes]] = {}
        self._known: dict[str, dict[tuple[bytes, str], bytes]] = {name: {} for name in (*self._sealed, *unfit)}
        self._device_keys: dict[str, bytes] = {}

    # -- sealing -------------------------------------------------------------------------------------------------

    def seal(self, rows: pa.RecordBatch) -> tuple[pa.RecordBatch, npt.NDArray[np.bool_] | None]:
        """Return the rows as the restricted zone keeps them, and a mask of the given rows that they are (None: all).

        Rows of erased patients are left out.

        Args:
            rows: identified; columns by name, dictionary-encoded or plain, absent ones count as null. The patient is
                never null.

        Raises:
            KeyRevoked: the keys are revoked; none stays in memory.
            ServiceUnavailable: the vault cannot be reached.
        """
        patients = _encoded(rows[self._patient])
        owner, used = _used(patients)
        keys = self._enrolled(patients.dictionary.take(pa.array(used)))
        kept = None
        if None in keys:
            kept = np.array([key is not None for key in keys], np.bool_)[owner]
            rows, owner = rows.filter(pa.array(kept)), owner[kept]
        arrays = {SUBJECT.name: _dictionary(owner, [key.subject if key else b"" for key in keys])}
        names = set(rows.schema.names)
        for field in self._form.schema:
            if field.name in arrays:
                continue
            if field.name == DEVICE_KEY.name:
                arrays[field.name] = self._keys_of_devices(rows)
            elif field.name not in names:
                arrays[field.name] = pa.nulls(len(owner), field.type)
            elif field.name in self._sealed:
                arrays[field.name] = self._seal_column(field.name, rows[field.name], owner, keys)
            elif field.name in self._unfit and (bad := self._unfit[field.name](rows)) is not None:
                arrays[field.name] = self._seal_words(field.name, rows[field.name], bad, owner, keys)
            else:
                arrays[field.name] = _plain(rows[field.name], field.type)
        return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays)), kept

    def seal_words(self, rows: pa.Table) -> pa.Table:
        """Return restricted rows with those texts sealed that an earlier release left in clear.

        Sealed texts stay as they are. Texts of erased patients become null.

        Raises:
            KeyRevoked: the keys are revoked.
        """
        batch = pa.RecordBatch.from_arrays([c.combine_chunks() for c in rows.columns], names=rows.schema.names)
        found = {name: bad for name, unfit in self._unfit.items() if (bad := unfit(batch)) is not None}
        if not found:
            return rows
        subjects = _encoded(batch[SUBJECT.name])
        names = [*subjects.dictionary.to_pylist(), None]
        secrets = self._keys.secrets(set(names) - {None})
        found = {name: left for name, bad in found.items() if (left := self._in_clear(name, batch, bad, secrets)).any()}
        keys = [PatientKey(name, secrets[name]) if name in secrets else None for name in names]
        owner = subjects.indices.fill_null(len(names) - 1).to_numpy(zero_copy_only=False)
        for name, bad in found.items():
            made = self._seal_words(name, batch[name], bad, owner, keys)
            rows = rows.set_column(rows.schema.get_field_index(name), name, made)
        return rows

    def _in_clear(
        self, name: str, rows: pa.RecordBatch, bad: npt.NDArray[np.bool_], secrets: dict[bytes, bytes]
    ) -> npt.NDArray[np.bool_]:
        """Return which of the given rows hold text in clear; text that only looks sealed counts as clear."""
        encoded, context = _encoded(rows[name]), self._context(name)
        ours = [_is_ours(sealed_word(text), secrets, context) for text in encoded.dictionary.to_pylist()]
        index = encoded.indices.fill_null(len(ours)).to_numpy(zero_copy_only=False)
        return bad & ~np.array([*ours, False], np.bool_)[index]

    def _seal_words(
        self,
        name: str,
        column: pa.Array,
        bad: npt.NDArray[np.bool_],
        owner: npt.NDArray[np.int32],
        keys: Sequence[PatientKey | None],
    ) -> pa.Array:
        """Return the column with the texts of these rows sealed, in no dictionary as clear text either."""
        given, rows = _plain(column, pa.string()), pa.array(bad)
        given = given.cast(pa.string())
        sealed = self._seal_column(name, pc.if_else(rows, given, pa.scalar(None, pa.string())), owner, keys)
        made = pc.if_else(rows, _as_words(sealed), given)
        return made.dictionary_encode() if pa.types.is_dictionary(column.type) else made

    def _enrolled(self, patients: pa.Array) -> list[PatientKey | None]:
        tokens = self._tokens_of(patients).to_pylist()
        try:
            keys = self._keys.enrol(list(zip(patients.to_pylist(), tokens, strict=True)))
        except BaseException:
            self.forget()
            raise
        return keys

    def forget(self) -> None:
        """Drop all keys from memory."""
        self._ciphers.clear()

    def _seal_column(
        self, name: str, column: pa.Array, owner: npt.NDArray[np.int32], keys: Sequence[PatientKey | None]
    ) -> pa.Array:
        if column.null_count == len(column):  # the same type as with values, so that polls can become one table
            return pa.nulls(len(column), pa.dictionary(pa.int32(), pa.binary()))
        encoded = _encoded(column)
        texts = [None if value is None else str(value) for value in encoded.dictionary.to_pylist()]
        index = encoded.indices.fill_null(len(texts)) if encoded.null_count else encoded.indices
        texts.append(None)
        # One sealed value for each pair of patient and value.
        pairs = owner.astype(np.int64) * len(texts) + index.to_numpy(zero_copy_only=False)
        distinct, place = np.unique(pairs, return_inverse=True)
        known, context = self._known[name], self._context(name)
        # Sealed texts too: they can be part of a row's key, by which its versions are found.
        is_repeatable = name in self._unfit or self._dataset.column(name).data_class in IDENTIFIERS
        sealed: list[bytes | None] = []
        if len(known) > REMEMBERED:
            known.clear()
        for patient, value in zip(*(part.tolist() for part in np.divmod(distinct, len(texts))), strict=True):
            key, text = keys[patient], texts[value]
            if text is None or key is None:
                sealed.append(None)
                continue
            found = known.get((key.subject, text))
            if found is None:
                found = known[(key.subject, text)] = self._seal(key, text.encode(), context, repeatable=is_repeatable)
            sealed.append(found)
        return _dictionary(place, sealed)

    def _context(self, column: str) -> bytes:
        return f"{self._dataset.name}.{column}".encode()

    def _seal(self, key: PatientKey, plain: bytes, context: bytes, *, repeatable: bool) -> bytes:
        """Seal a value.

        Args:
            key: the patient's.
            plain: the value.
            context: ``<dataset>.<column>``.
            repeatable: seal equal values to equal bytes, so that rows are matched by them without a key.
        """
        found = self._ciphers.get(key.subject)
        if found is None:
            if len(self._ciphers) > REMEMBERED:
                self._ciphers.clear()
            # Nonces are derived with a key of their own, so that the encrypting key is used for nothing else.
            nonces = hmac.digest(key.secret, b"nonces", hashlib.sha256)
            found = self._ciphers[key.subject] = AESGCM(key.secret), nonces
        cipher, nonces = found
        nonce = os.urandom(_NONCE_BYTES)
        if repeatable:  # the nonce is derived from the value, so it repeats only for the same value
            nonce = hmac.digest(nonces, context + b"\0" + plain, hashlib.sha256)[:_NONCE_BYTES]
        return FORMAT + key.subject + nonce + cipher.encrypt(nonce, plain, context)

    def _keys_of_devices(self, rows: pa.RecordBatch) -> pa.Array:
        if self._device is None or self._device not in rows.schema.names:
            return pa.nulls(rows.num_rows, pa.binary())
        encoded, known = _encoded(rows[self._device]), self._device_keys
        if len(known) > REMEMBERED:
            known.clear()
        for value in encoded.dictionary.to_pylist():
            if value is not None and value not in known:
                known[value] = device_key(self._secret, value)
        found = [known.get(value, b"") for value in encoded.dictionary.to_pylist()]
        return pa.DictionaryArray.from_arrays(encoded.indices.cast(pa.int32()), pa.array(found, pa.binary()))

    # -- opening -------------------------------------------------------------------------------------------------

    def open(self, rows: pa.Table, *, encoded: bool = False) -> pa.Table:
        """Return restricted rows in the dataset's columns, with values opened; rows of erased patients are left out.

        Args:
            rows: of the restricted table, with all of its columns.
            encoded: keep text dictionary-encoded.

        Raises:
            KeyRevoked: the keys are revoked, or were revoked meanwhile.
            PrivacyError: a value was changed, or moved to another column.
        """
        rows = rows.combine_chunks()
        subjects = _encoded(rows[SUBJECT.name].combine_chunks())
        secrets = self._keys.secrets(set(subjects.dictionary.to_pylist()) - {None})
        alive = pa.array([subject in secrets for subject in subjects.dictionary.to_pylist()], pa.bool_())
        if subjects.null_count or alive.false_count:
            rows = without_unused(rows.filter(alive.take(subjects.indices)))
        ciphers = {subject: AESGCM(secret) for subject, secret in secrets.items()}
        schema = in_dictionaries(self._dataset.schema) if encoded else self._dataset.schema
        columns = []
        for field in schema:
            column = rows[field.name].combine_chunks()
            if field.name in self._sealed:
                column = self._open_column(field.name, column, ciphers)
            elif field.name in self._unfit:
                column = self._open_words(field.name, column, ciphers)
            columns.append(as_type(column, field.type))
        return pa.table(columns, schema=schema)

    def _open_column(self, name: str, column: pa.Array, ciphers: dict[bytes, AESGCM]) -> pa.DictionaryArray:
        encoded, context = _encoded(column), self._context(name)
        texts: list[bytes | None] = []
        for begin in range(0, len(encoded.dictionary), OPENED):
            self._keys.secrets(())  # raises KeyRevoked if the keys were revoked meanwhile
            for sealed in encoded.dictionary.slice(begin, OPENED).to_pylist():
                cipher = None if sealed is None else ciphers.get(subject_of_value(sealed))
                texts.append(None if cipher is None else _unsealed(cipher, sealed, context))
        # A device that two patients had was sealed twice; a value of an erased patient becomes null.
        opened = pa.array(texts, pa.string()).dictionary_encode()
        return pa.DictionaryArray.from_arrays(opened.indices.take(encoded.indices), opened.dictionary)

    def _open_words(self, name: str, column: pa.Array, ciphers: dict[bytes, AESGCM]) -> pa.Array:
        at = _places_of_words(column)
        if not len(at):
            return column
        texts = _plain(column, pa.string()).cast(pa.string())
        sealed = pa.array([sealed_word(text) for text in texts.take(pa.array(at)).to_pylist()], pa.binary())
        opened = self._open_column(name, sealed, ciphers).cast(pa.string())
        rows = np.zeros(len(texts), np.bool_)
        rows[at] = True
        return pc.replace_with_mask(texts, pa.array(rows), opened)


def sealed_word(text: str | None) -> bytes | None:
    """Return the sealed value in a text of a column for codes; None: the text is not a sealed one."""
    if text is None or not text.startswith(WORDS):
        return None
    try:
        value = base64.b64decode(text[len(WORDS) :], altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return value if value[: len(FORMAT)] == FORMAT and len(value) >= _HEAD_BYTES + _NONCE_BYTES + _TAG_BYTES else None


def open_value(sealed: bytes, secrets: dict[bytes, bytes], *, context: bytes) -> bytes | None:
    """Open one sealed value; None: its patient's key is not among these.

    Args:
        sealed: a value that RowSealer sealed.
        secrets: subject → the patient's secret.
        context: ``<dataset>.<column>``.

    Raises:
        PrivacyError: it was changed, or sealed for another column.
    """
    secret = secrets.get(subject_of_value(sealed))
    return None if secret is None else _unsealed(AESGCM(secret), sealed, context)


def subject_of_value(sealed: bytes) -> bytes:
    """Return the subject whose key a sealed value needs."""
    return sealed[len(FORMAT) : _HEAD_BYTES]


def _unsealed(cipher: AESGCM, sealed: bytes, context: bytes) -> bytes:
    try:
        if sealed[: len(FORMAT)] != FORMAT:
            raise ValueError
        begin = _HEAD_BYTES + _NONCE_BYTES
        return cipher.decrypt(sealed[_HEAD_BYTES:begin], sealed[begin:], context)
    except (InvalidTag, ValueError):
        raise PrivacyError(
            "Sealed value cannot be opened",
            where=context.decode(),
            remedy="It was changed, or moved to another column. Run 'vitalake lake verify'.",
        ) from None


# -- columns -----------------------------------------------------------------------------------------------------


def _encoded(column: pa.Array) -> pa.DictionaryArray:
    return column if pa.types.is_dictionary(column.type) else column.dictionary_encode()


def _as_words(sealed: pa.DictionaryArray) -> pa.Array:
    """Return sealed values as texts: prefix and base64."""
    texts = [
        None if value is None else WORDS + base64.b64encode(value, altchars=b"-_").decode()
        for value in sealed.dictionary.to_pylist()
    ]
    return pa.DictionaryArray.from_arrays(sealed.indices, pa.array(texts, pa.string())).cast(pa.string())


def _is_ours(sealed: bytes | None, secrets: dict[bytes, bytes], context: bytes) -> bool:
    """Return whether a value was sealed for this column, with one of these keys."""
    try:
        return sealed is not None and open_value(sealed, secrets, context=context) is not None
    except PrivacyError:
        return False


def _places_of_words(column: pa.Array) -> npt.NDArray[np.int64]:
    """Return the indices of the rows of a column that hold a sealed text."""
    encoded = _encoded(column)
    words = [place for place, text in enumerate(encoded.dictionary.to_pylist()) if sealed_word(text) is not None]
    if not words:
        return np.zeros(0, np.int64)
    indices = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return np.flatnonzero(np.isin(indices, words))


def _used(column: pa.DictionaryArray) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return for each row the number of its dictionary entry, and the dictionary index of each number.

    A dictionary can also hold entries of rejected rows only: no patient must be enrolled for those.
    """
    indices = column.indices.to_numpy(zero_copy_only=False)
    used = np.flatnonzero(np.bincount(indices, minlength=len(column.dictionary)))
    numbers = np.zeros(len(column.dictionary), np.int32)
    numbers[used] = np.arange(len(used), dtype=np.int32)
    return numbers[indices], used


def _dictionary(indices: npt.NDArray[np.integer], values: Sequence[bytes | None]) -> pa.DictionaryArray:
    absent = np.array([value is None for value in values], np.bool_)
    # Parquet keeps a null in the rows, and not as an entry of the dictionary.
    mask = absent[indices] if absent.any() else None
    return pa.DictionaryArray.from_arrays(pa.array(indices.astype(np.int32), mask=mask), pa.array(values, pa.binary()))


def _plain(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        if column.type.value_type == kind:
            return column  # Parquet keeps dictionaries as they are
        return column.cast(column.type.value_type).cast(kind)
    return column if column.type == kind else column.cast(kind)
