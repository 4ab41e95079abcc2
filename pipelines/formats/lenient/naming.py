"""Whom a message names: read with the decoders' own composing, but leniently, for what was rejected may be half broken.

Sources' ids are composed: ``HOSP|4711`` stands in no message as it is. So a message is taken apart as its decoder does
it, and every patient is kept that it names anywhere, also where the decoder would not look or would refuse it.

What a message is, JSON or HL7 v2, its text says, and so it is read whatever the format of its topic: it may have been
sent to the wrong one, or lie in another message. What the format knows beside is asked of the format.
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
from pipelines.formats.shared.named import Named, is_somebody
from vitalake.errors import SettingsError
from vitalake.settings import Settings

_Told = TypeVar("_Told")

_log = logging.getLogger(__name__)


class Naming:
    """Tells whom messages name; profiles are read once. Cheap enough for rejected messages, not for all."""

    def __init__(self, settings: Settings | None = None) -> None:
        """Prepare.

        Args:
            settings: where the profiles of formats are; None: no format is known, but what a message is its text says.
        """
        self._settings = settings
        self._readers: dict[str, Lenient] = {}

    def named_in(self, payload: bytes, format_name: str = "") -> set[str] | None:
        """Return every id of a patient that a message names, composed as decoders compose them, and record numbers.

        Args:
            payload: the message.
            format_name: of its topic, as settings write it, or a decoder's name with or without its version; it says
                which format is asked, and by which profile numbers are composed.

        Returns:
            The ids, none where it names nobody; None for what cannot be taken apart, of which nothing can be told.
        """
        found = self.whose(payload, format_name)
        return None if found is None else found.all

    def whose(self, payload: bytes, format_name: str = "") -> Named | None:
        """Return the same, with whether they stand where decoders read patients; see named_in.

        A format that finds nobody in what only it can take apart is not believed: that is as if it could not be.
        """
        told = self.reader_of(format_name).whose(payload)
        found = self._generally(payload, format_name, told or Named())
        if found is None:
            return told if told is not None and told.all else None
        return found | told if told is not None else found

    def _generally(self, payload: bytes, format_name: str, told: Named) -> Named | None:
        """Return what the text of a message says, whatever its format; None: it is neither JSON nor HL7 v2."""
        message = parse_document(payload)
        if isinstance(message, bytes):
            return Hl7Lenient(plain()).whose(payload)
        found = _of_json(message, told)
        for _, value in keyed_values(message):
            if isinstance(value, str) and (inner := in_envelope(value)) is not None:
                found |= self.whose(inner, format_name) or Named()
        return found

    def stays_in(self, payload: bytes, format_name: str = "") -> set[str]:
        """Return the ids of stays that a message names, composed as decoders compose them; none of what is no message.

        To be asked of messages that name no patient.
        """
        message = parse_document(payload)
        found = Hl7Lenient(plain()).stays(payload) if isinstance(message, bytes) else fhir.stays(message)
        return found | self.reader_of(format_name).stays(payload)

    def devices_in(self, payload: bytes, format_name: str = "") -> set[str]:
        """Return the ids of devices and beds that a message names, composed as decoders compose them; see stays_in."""
        message = parse_document(payload)
        found = Hl7Lenient(plain()).devices(payload) if isinstance(message, bytes) else fhir.devices(message)
        return found | self.reader_of(format_name).devices(payload)

    def reader_of(self, format_name: str) -> Lenient:
        """Return what reads messages of a format; where it is not registered any more, what adds nothing."""
        name = format_name.partition("/")[0]
        if name not in self._readers:
            self._readers[name] = self._made(name)
        return self._readers[name]

    def _made(self, format_name: str) -> Lenient:
        if format_name == WAREHOUSE:
            return WarehouseRows()
        if self._settings is None or not format_name:
            return Lenient()
        _, profile = split_name(format_name)
        try:
            kind = kind_of(format_name)
            return Guarded(format_name, kind.lenient(profile, self._settings))
        except SettingsError:  # the format or its profile is gone, or does not hold any more
            return Lenient()


class WarehouseRows(Lenient):
    """Reads rows of a warehouse, as the history lane puts them aside."""

    def whose(self, payload: bytes) -> Named | None:
        """Return the patients of the column ``patient_id``."""
        document = parse_document(payload)
        return Named({text_of(value) for name, value in keyed_values(document) if name == "patient_id"} - {""})


class Guarded(Lenient):
    """A format's reader; where it fails, the general reader reads alone: an erasure does not end at a bad message."""

    def __init__(self, name: str, reader: Lenient) -> None:
        self._name, self._reader, self._told = name, reader, False

    def whose(self, payload: bytes) -> Named | None:
        """Return what the reader does; None: it has failed."""
        return self._asked(self._reader.whose, payload, None)

    def stays(self, payload: bytes) -> set[str]:
        """Return what the reader does; none: it has failed."""
        return self._asked(self._reader.stays, payload, set())

    def devices(self, payload: bytes) -> set[str]:
        """Return what the reader does; none: it has failed."""
        return self._asked(self._reader.devices, payload, set())

    def about(self, payload: bytes) -> About | None:
        """Return what the reader does; None: it has failed."""
        return self._asked(self._reader.about, payload, None)

    def _asked(self, ask: Callable[[bytes], _Told], payload: bytes, otherwise: _Told) -> _Told:
        try:
            return ask(payload)
        except Exception as error:  # a package's own, of what a message holds: its text is not told
            if not self._told:
                _log.error("lenient reader failed", extra={"format": self._name, "error": type(error).__name__})
            self._told = True
            return otherwise


def _of_json(document: Any, told: Named) -> Named:
    """Return whom a document names.

    Args:
        document: the message.
        told: whom its format has found where its decoder reads patients.
    """
    found, is_fhir = fhir.whose(document)
    if not any(map(is_somebody, told.proper | (found.proper if is_fhir else set()))):
        found |= patients_by_keys(document)
    return found - {""}


def in_envelope(text: str) -> bytes | None:
    """Return the message that a text holds, as gateways and connectors put one into another; None: it holds none."""
    for inner in (text.encode(errors="replace"), from_base64(text.strip())):
        if inner is not None and inner.lstrip()[:3].startswith((b"MSH", b"{", b"[")):
            return inner
    return None
