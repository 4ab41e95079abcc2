"""Finds the patients that a rejected message names. It composes ids as decoders do, but reads damaged messages too.

A composed id such as ``HOSP|4711`` does not stand literally in a message. So a message is parsed as its decoder would
parse it, and every patient anywhere in it is returned, also where the decoder would not look or would refuse it.

The text of a message shows whether it is JSON or HL7 v2, and it is read as that, whatever the format of its topic: it
can have been sent to the wrong topic, or be enclosed in another message. The topic's format is asked in addition.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from governance.erasure.plain_words import from_base64
from pipelines.formats.base import WAREHOUSE, Lenient
from pipelines.formats.fhir import lenient as fhir
from pipelines.formats.hl7.lenient import Hl7Lenient, plain
from pipelines.formats.registry import kind_of, split_name
from pipelines.formats.shared.about import About
from pipelines.formats.shared.documents import keyed_values, parse_document, text_of
from pipelines.formats.shared.keys import patients_by_keys
from pipelines.formats.shared.named import Named, is_likely_id
from vitalake.errors import SettingsError
from vitalake.settings import Settings

_Answer = TypeVar("_Answer")

_log = logging.getLogger(__name__)


class Naming:
    """Finds the patients, stays and devices that messages name. Fast enough for rejected messages, not for all.

    Each profile is read once.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        """Prepare.

        Args:
            settings: have the folder of the formats' profiles; None: only the general reader is used.
        """
        self._settings = settings
        self._readers: dict[str, Lenient] = {}

    def named_in(self, payload: bytes, format_name: str = "") -> set[str] | None:
        """Return all ids of patients in a message, composed as decoders compose them, and record numbers.

        Args:
            payload: the message.
            format_name: its topic's format, as in the settings, or a decoder's name with or without its version. It
                decides which format is asked, and which profile composes the numbers.

        Returns:
            The ids, an empty set if the message names nobody; None if it cannot be parsed, so that nothing is known.
        """
        found = self.whose(payload, format_name)
        return None if found is None else found.all

    def whose(self, payload: bytes, format_name: str = "") -> Named | None:
        """Return the ids of named_in, grouped by how reliably the message names them.

        If only the topic's format can parse a message and finds nobody in it, the message counts as not parsed.
        """
        by_format = self.reader_of(format_name).whose(payload)
        found = self._generally(payload, format_name, by_format or Named())
        if found is None:
            return by_format if by_format is not None and by_format.all else None
        return found | by_format if by_format is not None else found

    def _generally(self, payload: bytes, format_name: str, by_format: Named) -> Named | None:
        """Return the patients that the general reader finds; None: the message is neither JSON nor HL7 v2."""
        message = parse_document(payload)
        if isinstance(message, bytes):
            return Hl7Lenient(plain()).whose(payload)
        found = _of_json(message, by_format)
        for _, value in keyed_values(message):
            if isinstance(value, str) and (inner := in_envelope(value)) is not None:
                found |= self.whose(inner, format_name) or Named()
        return found

    def stays_in(self, payload: bytes, format_name: str = "") -> set[str]:
        """Return the ids of stays in a message, composed as decoders compose them; empty if it cannot be parsed.

        Meant for messages that name no patient.
        """
        message = parse_document(payload)
        found = Hl7Lenient(plain()).stays(payload) if isinstance(message, bytes) else fhir.stays(message)
        return found | self.reader_of(format_name).stays(payload)

    def devices_in(self, payload: bytes, format_name: str = "") -> set[str]:
        """Return the ids of devices and beds in a message, composed as decoders compose them; see stays_in."""
        message = parse_document(payload)
        found = Hl7Lenient(plain()).devices(payload) if isinstance(message, bytes) else fhir.devices(message)
        return found | self.reader_of(format_name).devices(payload)

    def reader_of(self, format_name: str) -> Lenient:
        """Return the lenient reader of a format; one that adds nothing if the format is no longer registered."""
        name = format_name.partition("/")[0]
        if name not in self._readers:
            self._readers[name] = self._new_reader(name)
        return self._readers[name]

    def _new_reader(self, format_name: str) -> Lenient:
        if format_name == WAREHOUSE:
            return WarehouseRows()
        if self._settings is None or not format_name:
            return Lenient()
        _, profile = split_name(format_name)
        try:
            kind = kind_of(format_name)
            return Guarded(format_name, kind.lenient(profile, self._settings))
        except SettingsError:  # the format or its profile is gone, or no longer valid
            return Lenient()


class WarehouseRows(Lenient):
    """Reads warehouse rows that the history lane put into quarantine."""

    def whose(self, payload: bytes) -> Named | None:
        """Return the patients in the column ``patient_id``."""
        document = parse_document(payload)
        return Named({text_of(value) for name, value in keyed_values(document) if name == "patient_id"} - {""})


class Guarded(Lenient):
    """Guards a format's reader: if it fails, only the general reader counts, so that a bad message stops no erasure."""

    def __init__(self, name: str, reader: Lenient) -> None:
        self._name, self._reader, self._logged = name, reader, False

    def whose(self, payload: bytes) -> Named | None:
        """Return the reader's result; None if it fails."""
        return self._call(self._reader.whose, payload, None)

    def stays(self, payload: bytes) -> set[str]:
        """Return the reader's result; empty if it fails."""
        return self._call(self._reader.stays, payload, set())

    def devices(self, payload: bytes) -> set[str]:
        """Return the reader's result; empty if it fails."""
        return self._call(self._reader.devices, payload, set())

    def about(self, payload: bytes) -> About | None:
        """Return the reader's result; None if it fails."""
        return self._call(self._reader.about, payload, None)

    def _call(self, read: Callable[[bytes], _Answer], payload: bytes, otherwise: _Answer) -> _Answer:
        try:
            return read(payload)
        # A package's code can raise anything; its text could quote the message, so only the type is logged, once.
        except Exception as error:
            if not self._logged:
                _log.error("lenient reader failed", extra={"what": self._name, "reason": type(error).__name__})
            self._logged = True
            return otherwise


def _of_json(document: Any, by_format: Named) -> Named:
    """Return the patients that a document names.

    Args:
        document: the message.
        by_format: the patients that its format has found.
    """
    found, is_fhir = fhir.named_patients(document)
    if not any(map(is_likely_id, by_format.proper | (found.proper if is_fhir else set()))):
        found |= patients_by_keys(document)
    return found - {""}


def in_envelope(text: str) -> bytes | None:
    """Return the message inside a text, as gateways and connectors enclose messages; None: there is none."""
    for inner in (text.encode(errors="replace"), from_base64(text.strip())):
        if inner is not None and inner.lstrip()[:3].startswith((b"MSH", b"{", b"[")):
            return inner
    return None
