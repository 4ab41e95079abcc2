"""Whom a message names: read with the decoders' own composing, but leniently, for what was rejected may be half broken.

Sources' ids are composed: ``HOSP|4711`` stands in no message as it is. So a message is taken apart as its decoder does
it, and every patient is kept that it names anywhere, also where the decoder would not look or would refuse it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec

from governance.erasure.plain_words import SHORTEST, from_base64
from pipelines.formats.fhir.elements import reference_of
from pipelines.formats.flat.columns import names
from pipelines.formats.flat.profile import FlatProfile, Name, Profile, load_profile
from pipelines.formats.flat.profile_paths import EACH, Step
from pipelines.formats.hl7.profile import Hl7Profile, PatientNumber
from pipelines.formats.shared.encoded import Refused
from pipelines.formats.shared.named import Named, is_somebody
from pipelines.formats.shared.parsing import PARSE_ERRORS
from vitalake.errors import SettingsError
from vitalake.settings import Settings

if TYPE_CHECKING:
    from pipelines.formats.hl7.names import Names
    from pipelines.formats.hl7.text import Dialect, Segment

_NUMBERS = {b"PID": (2, 3, 4), b"MRG": (1, 4)}
"""HL7's fields of patients' numbers; decoders read PID-3 and MRG-1, the others are what they were called earlier."""

_VISIT = 19
"""PV1's field of the stay's number."""

_BED = 3
"""PV1's field of the bed."""

_DEVICES = {"OBX": 18, "PRT": 10}
"""HL7's fields of devices."""

_WHOSE = frozenset({"subject", "patient", "individual", "beneficiary", "for", "other", "target", "who"})
"""FHIR's elements in which a logical identifier without a type is a patient's."""

KEYS = re.compile(r"patient|subject|person|mrn|(?<![a-z])pid(?![a-z])", re.IGNORECASE)
"""Names of keys that hold a patient's number, in JSON of which nothing else is known."""

_RELATIVES = re.compile(
    r"mother|father|parent|twin|sibling|spouse|wife|husband|of_?kin|relative|related_?person|guardian|guarantor"
    r"|donor|contact_?person|emergency_?contact",
    re.IGNORECASE,
)
"""Names of keys that hold numbers of those who belong to a patient."""

_STAFF = re.compile(
    r"personnel|staff|employee|nurse|physician|doctor|clinician|practitioner|performer|attending|entered_?by",
    re.IGNORECASE,
)
"""The same of those who work for them."""

_OF_PATIENT = re.compile(r"patient|mrn", re.IGNORECASE)
"""Names of keys that nobody gives a number of staff."""

NO_NUMBERS = re.compile(
    r"name|birth|dob|sex|gender|(?<![a-z])age(?![a-z])|address|phone|mail|unit|class", re.IGNORECASE
)
"""Names of keys in which something else of a patient stands."""

_ROWS = "sql"
"""The format of a warehouse's rows."""

_INSIDE = ("id", "value", "identifier", "number")
_SERVER = r"""https?://[^\s"']{1,256}/"""
"""Bounded: what begins with it again and again would be read to its end from each beginning."""

_LITERAL = re.compile(rf"""(?:{_SERVER})?\bPatient/[^\s/?#"']+""")
_STAY = re.compile(rf"""(?:{_SERVER})?\bEncounter/[^\s/?#"']+""")
_STAY_KEYS = re.compile(r"encounter|visit|stay|episode", re.IGNORECASE)
_CONDITIONAL = re.compile(r"\bPatient\?(?:[^\s\"']{0,256}&)?identifier=([^\s&\"']+)")
_RECORD_NUMBER = "MR"
LINES = re.compile(rb"[\r\n\x0b\x1c]+")
_HEADER = re.compile(rb"(?:^|[\r\n\x0b])[^\S\r\n\x0b]*MSH")
_MARKS = r"^~\&"
_BLANKS = b" \t\r\n\x0b\x1c\xef\xbb\xbf"
_LOOSE = re.compile(r"(?:/?(?:patient|person)(?:/|\?(?:_?id|identifier)=)|#)?([\w.-]+)", re.IGNORECASE)
"""A patient's reference that is written wrongly: another case, no type, a fragment, a search."""


class Naming:
    """Tells whom messages name; profiles are read once. Cheap enough for rejected messages, not for all."""

    def __init__(self, settings: Settings | None = None) -> None:
        """Prepare.

        Args:
            settings: where the profiles of formats are; None: no profile is known.
        """
        self._settings = settings
        self._profiles: dict[str, Profile | None] = {}

    def named_in(self, payload: bytes, format_name: str = "") -> set[str] | None:
        """Return every id of a patient that a message names, composed as decoders compose them, and record numbers.

        Args:
            payload: the message.
            format_name: of its topic, as settings write it, or a decoder's name with or without its version; it says by
                which profile numbers are composed. What the message is, JSON or HL7 v2, its text says.

        Returns:
            The ids, none where it names nobody; None for what cannot be taken apart, of which nothing can be told.
        """
        found = self.whose(payload, format_name)
        return None if found is None else found.all

    def whose(self, payload: bytes, format_name: str = "") -> Named | None:
        """Return the same, with whether they stand where decoders read patients; see named_in."""
        message = opened(payload)
        profile = self.profile_of(format_name)
        if isinstance(message, bytes):
            return _of_hl7(message, profile) if _HEADER.search(message) else None
        found = _of_json(message, _told(message, format_name, profile))
        for _, value in places(message):
            if isinstance(value, str) and (inner := in_envelope(value)) is not None:
                found |= self.whose(inner, format_name) or Named()
        return found

    def stays_in(self, payload: bytes, format_name: str = "") -> set[str]:
        """Return the ids of stays that a message names, composed as decoders compose them; none of what is no message.

        To be asked of messages that name no patient.
        """
        message = opened(payload)
        profile = self.profile_of(format_name)
        if isinstance(message, bytes):
            return _stays_of_hl7(message, profile)
        return _stays_of_json(message, profile.encounter if isinstance(profile, FlatProfile) else None)

    def devices_in(self, payload: bytes, format_name: str = "") -> set[str]:
        """Return the ids of devices and beds that a message names, composed as decoders compose them; see stays_in."""
        message = opened(payload)
        profile = self.profile_of(format_name)
        if isinstance(message, bytes):
            return _devices_of_hl7(message, profile)
        return _devices_of_json(message, profile.device if isinstance(profile, FlatProfile) else None)

    def profile_of(self, format_name: str) -> Profile | None:
        """Return the profile that a format names; None: none, or it does not hold any more."""
        name = format_name.partition("/")[0]
        if name not in self._profiles:
            self._profiles[name] = self._read(name)
        return self._profiles[name]

    def _read(self, format_name: str) -> Profile | None:
        kind, _, name = format_name.partition(":")
        if self._settings is None:
            return None
        try:
            if kind == "flat":
                return load_profile(FlatProfile, name, self._settings)
            return load_profile(Hl7Profile, name or "hl7", self._settings) if kind.startswith("hl7-v2") else None
        except SettingsError:  # it is gone, or does not hold any more
            return None


# -- JSON --------------------------------------------------------------------------------------------------------


def _told(document: Any, format_name: str, profile: Profile | None) -> set[str]:
    """Return the patients that stand where a profile says, or in a row of a warehouse."""
    if format_name.partition("/")[0] == _ROWS:
        return {_text(value) for name, value in places(document) if name == "patient_id"} - {""}
    if not isinstance(profile, FlatProfile) or profile.patient is None:
        return set()
    values = [_text(value) for value in values_at(document, profile.patient.path.steps)]
    return {text for text in names(values, profile.patient).values if text}


def _of_json(document: Any, told: set[str]) -> Named:
    found = Named(set(told))
    fhir = False
    for name, value in places(document):
        if isinstance(value, str):
            is_reference = name in ("reference", "fullUrl")
            proper = is_reference or name in _WHOSE
            guessed = found.beside if _RELATIVES.search(name) or _STAFF.search(name) else found.guessed
            (found.proper if proper else guessed).update(_of_text(value, is_reference=is_reference))
        elif isinstance(value, dict):
            fhir |= "resourceType" in value
            if value.get("resourceType") == "Patient":
                (found.guessed if name == "contained" else found.proper).add(_text(value.get("id")))
                found.proper.update(*map(_numbers, _list(value.get("identifier"))))
            elif value.get("type") == "Patient" or (name in _WHOSE and not isinstance(value.get("type"), str)):
                found.proper.update(_numbers(value.get("identifier")))
            if name in _WHOSE and isinstance(loose := value.get("reference"), str):
                (found.guessed if loose.startswith("#") else found.proper).update(_loosely(loose))
        if name in _WHOSE:
            found.guessed.update(_misshapen(value))
    if not any(map(is_somebody, told | (found.proper if fhir else set()))):
        found |= _by_keys(document)
    return found - {""}


def _of_text(text: str, *, is_reference: bool) -> set[str]:
    """Return the patients of literal and conditional references in a text."""
    literals = _LITERAL.findall(text) if "Patient/" in text else []
    if is_reference and text.startswith("urn:"):
        literals.append(text)
    found = {_reference(reference=written) for literal in literals for written in (literal, unquote(literal))}
    for query in _CONDITIONAL.findall(text) if "Patient?" in text else ():
        system, _, value = unquote(query).rpartition("|")
        found |= {_reference(identifier={"system": system, "value": value})}
    return found


def _loosely(reference: str) -> set[str]:
    """Return the id in a reference to a patient that no decoder would take."""
    if _of_text(reference, is_reference=True) - {""}:
        return set()
    found = _LOOSE.fullmatch(reference)
    return {found[1]} if found else set()


def _misshapen(whose: Any) -> set[str]:
    """Return what may be a patient's id where a reference should stand: a bare number or text, an id, identifiers."""
    if not isinstance(whose, dict):
        return _ids([whose])
    if isinstance(kind := whose.get("type"), str) and kind != "Patient":
        return set()
    identifiers = _list(whose.get("identifier"))
    bare = [one.get("value") for one in identifiers if isinstance(one, dict) and not one.get("system")]
    composed = {name for one in identifiers for name in _numbers(one)}
    return composed | _ids([whose.get("id"), whose.get("reference"), *identifiers, *bare])


def _ids(values: Iterable[Any]) -> set[str]:
    """Return those values that may be an id by their form, and are long enough not to be something else."""
    return {name for value in values for name in _loosely(_text(value)) if len(name) >= SHORTEST}


def in_envelope(text: str) -> bytes | None:
    """Return the message that a text holds, as gateways and connectors put one into another; None: it holds none."""
    for inner in (text.encode(errors="replace"), from_base64(text.strip())):
        if inner is not None and inner.lstrip()[:3].startswith((b"MSH", b"{", b"[")):
            return inner
    return None


def _numbers(identifier: Any) -> set[str]:
    """Return an identifier as a logical reference would be composed; a record number also alone."""
    if not isinstance(identifier, dict):
        return set()
    value = _text(identifier.get("value"))
    found = {_reference(identifier={"system": _text(identifier.get("system")), "value": value})}
    if any(_RECORD_NUMBER == code for name, code in places(identifier.get("type")) if name == "code"):
        found.add(value)
    return found


def opened(payload: bytes) -> Any:
    """Return what a JSON message holds; the bytes of any other, HL7's among them."""
    body = payload.strip(_BLANKS)
    text = body.decode(errors="replace")  # decoders skip what they do not read
    try:
        return msgspec.json.decode(text)
    except PARSE_ERRORS:
        return _leniently(text, body)


_NO_NUMBER = re.compile(
    r"(?<=[:,\[\s])-?(?:\d+(?:\.\d+)?[eE]\+?\d{3,}|\d{309,}(?:\.\d+)?|NaN|Infinity)(?=[,\]}\s])", re.ASCII
)
"""What stands where a number should and is more than a double can have, or none."""


def _leniently(text: str, body: bytes) -> Any:
    """Return what a message holds without its numbers that are none, such as 1e400 or NaN, else its bytes."""
    try:
        return msgspec.json.decode(_NO_NUMBER.sub("null", text))
    except PARSE_ERRORS:
        return body


def _stays_of_json(document: Any, encounter: Name | None) -> set[str]:
    found: set[str] = set()
    for name, value in places(document):
        if isinstance(value, str):
            found |= {_reference("Encounter", reference=literal) for literal in _STAY.findall(value)}
            found |= {value} if _STAY_KEYS.search(name) else set()
        elif isinstance(value, dict) and value.get("resourceType") == "Encounter":
            found |= {_text(value.get("id"))}.union(*map(_numbers, _list(value.get("identifier"))))
        elif isinstance(value, dict) and "Encounter" in (value.get("type"), name.title()):
            found |= _numbers(value.get("identifier"))
    if encounter:
        told = [_text(value) for value in values_at(document, encounter.path.steps)]
        found |= {text for text in names(told, encounter).values if text}
    return found - {""}


def _devices_of_json(document: Any, device: Name | None) -> set[str]:
    found = {
        _reference("Device", **value)
        for name, value in places(document)
        if name == "device" and isinstance(value, dict)
    }
    if device:
        told = [_text(value) for value in values_at(document, device.path.steps)]
        found |= {text for text in names(told, device).values if text}
    return found - {""}


def _reference(kind: str = "Patient", **elements: Any) -> str:
    """Return what ``reference_of`` makes of a reference; empty where it makes nothing."""
    try:
        return reference_of(kind, msgspec.json.encode(elements)) or ""
    except (Refused, *PARSE_ERRORS):
        return ""


def _by_keys(document: Any) -> Named:
    """Return the numbers that stand under keys which by their names are a patient's, or just inside of those."""
    found = Named()
    left: list[tuple[str, Any, bool, bool]] = [("", document, False, False)]
    while left:
        name, value, of_relative, of_staff = left.pop()
        of_relative = of_relative or _RELATIVES.search(name) is not None
        of_staff = of_staff or _STAFF.search(name) is not None
        if KEYS.search(name) and not NO_NUMBERS.search(name):
            inner = [value.get(key) for key in _INSIDE] if isinstance(value, dict) else [value]
            # What staff do for one, as a physician's order, names the patient.
            beside = of_relative or (of_staff and not _OF_PATIENT.search(name))
            (found.beside if beside else found.guessed).update(map(_text, inner))
        if isinstance(value, dict):
            left.extend((key, item, of_relative, of_staff) for key, item in value.items())
        elif isinstance(value, list):
            left.extend((name, item, of_relative, of_staff) for item in value)
    return found


def places(document: Any) -> Iterator[tuple[str, Any]]:
    """Yield every value with the key that it stands under; what is in a list, with the list's."""
    left: list[tuple[str, Any]] = [("", document)]
    while left:
        name, value = left.pop()
        yield name, value
        if isinstance(value, dict):
            left.extend(value.items())
        elif isinstance(value, list):
            left.extend((name, item) for item in value)


def values_at(document: Any, steps: Sequence[Step]) -> list[Any]:
    """Return what stands at a profile's path; decoders read it by types, and refuse the message where one is wrong."""
    found = [document]
    for step in steps:
        if isinstance(step, int):
            found = [thing[step] for thing in found if isinstance(thing, list) and step < len(thing)]
        elif step == EACH:
            found = [item for thing in found if isinstance(thing, list) for item in thing]
        else:
            key = step.removeprefix(".")
            found = [thing[key] for thing in found if isinstance(thing, dict) and key in thing]
    return found


def _text(value: Any) -> str:
    """Return a text or whole number as decoders write it, 7.0 as 7; anything else is no number of a patient."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return str(value).replace("\0", "")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# -- HL7 v2 ------------------------------------------------------------------------------------------------------


def _of_hl7(payload: bytes, profile: Profile | None) -> Named | None:
    """Return the numbers of all patients; None where header or patients' segments cannot be taken apart."""
    try:
        from pipelines.formats.hl7.names import Names
    except ImportError:  # the extra 'hl7' is not installed
        return None
    # With what the profile says of systems, and without: it may have said less when the patient was enrolled. Which
    # of several numbers counts it may have said otherwise, so that all do.
    own = profile.model_copy(update={"patient": PatientNumber()}) if isinstance(profile, Hl7Profile) else _plain()
    composers = [Names(own), Names(_plain())]
    found = Named()
    dialect: Dialect | None = None
    identified = False
    for line in map(bytes.strip, LINES.split(payload)):
        if line[:3] == b"MSH":
            dialect = _dialect(line.decode("latin-1"))
        identified |= line[:3] in _NUMBERS
        numbers = _of_segment(line, dialect, composers) if line[:3] in (b"MSH", *_NUMBERS) else Named()
        if numbers is None:
            return None
        found |= numbers
    return found if identified or b"PID" not in payload else None


def _of_segment(line: bytes, dialect: Dialect | None, composers: Sequence[Names]) -> Named | None:
    """Return the numbers that a segment names; None where it cannot be taken apart."""
    from pipelines.formats.hl7.text import Segment

    if dialect is None or line[3:4].decode("latin-1") != dialect.separators.field:
        return None
    segment = Segment(_decoded(line, dialect.charset), dialect)
    found = Named()
    for text in [text for n in _NUMBERS.get(line[:3], ()) for text in dialect.repetitions(segment.raw(n))]:
        try:
            parts = composers[0].numbered(text, dialect)
            proper = {name for composer in composers if parts and (name := composer.patient(text, dialect))}
        except Refused:
            return None
        if parts and parts[3] == _RECORD_NUMBER:
            proper.add(parts[0])
        check = dialect.plain([*dialect.components(text), ""][1]).strip()
        found |= Named(proper, beside=_otherwise_written(proper, check))
    return found


def _otherwise_written(numbers: Iterable[str], check: str) -> set[str]:
    """Return numbers without the zeros that some systems fill them up with, and without a check digit at their end.

    Args:
        numbers: with and without the system before them.
        check: the check digit, as the number's second component says.
    """
    found: set[str] = set()
    for name in numbers:
        system, mark, number = name.rpartition("|")
        bare = number.lstrip("0")
        forms = {bare, *(form[:-1] for form in (number, bare) if len(check) == 1 and form.endswith(check))} - {number}
        found |= {written for form in forms if len(form) >= SHORTEST for written in (form, f"{system}{mark}{form}")}
    return found


def _stays_of_hl7(payload: bytes, profile: Profile | None) -> set[str]:
    return {
        stay
        for composer, segment in segments(payload, profile)
        if segment.name == "PV1" and (stay := _read(composer.visit, segment, _VISIT))
    }


def _devices_of_hl7(payload: bytes, profile: Profile | None) -> set[str]:
    found: set[str | None] = set()
    for composer, segment in segments(payload, profile):
        if segment.name == "PV1":
            found.add(_read(composer.bed, segment, _BED))
        elif segment.name in _DEVICES:
            found.add(_read(composer.device, segment, _DEVICES[segment.name]))
    return {device for device in found if device}


def _read(compose: Callable[[str, Dialect], str | None], segment: Segment, number: int) -> str | None:
    with suppress(Refused):
        return compose(segment.raw(number), segment.dialect)
    return None


def segments(payload: bytes, profile: Profile | None) -> Iterator[tuple[Names, Segment]]:
    """Yield segments with what composes ids: as the profile says, and as none does."""
    try:
        from pipelines.formats.hl7.names import Names
        from pipelines.formats.hl7.text import Segment
    except ImportError:  # the extra 'hl7' is not installed
        return
    composers = [Names(profile if isinstance(profile, Hl7Profile) else _plain()), Names(_plain())]
    dialect: Dialect | None = None
    for line in map(bytes.strip, LINES.split(payload)):
        if line[:3] == b"MSH":
            dialect = _dialect(line.decode("latin-1"))
        elif dialect is not None:
            segment = Segment(_decoded(line, dialect.charset), dialect)
            yield from ((composer, segment) for composer in composers)


@cache
def _plain() -> Hl7Profile:
    return Hl7Profile(format="hl7-v2", description="")


def _dialect(header: str) -> Dialect | None:
    """Return what MSH says of separators and character set, with the usual ones for those it leaves out."""
    from pipelines.formats.hl7.text import CHARSETS, Dialect, Separators

    field = header[3:4]
    said = header[4:].split(field)[0] if field else ""
    separators = Separators(field, *(said + _MARKS[len(said) :])[:4])
    if len(set(separators)) < len(separators) or any(mark.isalnum() or not mark for mark in separators):
        return None
    charset = [*header.split(field), *[""] * 17][17].split(separators.repetition)[0]
    return Dialect(separators, CHARSETS.get(charset.strip().upper(), "utf-8"))


def _decoded(line: bytes, charset: str) -> str:
    try:
        return line.decode(charset)
    except UnicodeDecodeError:
        return line.decode("latin-1")
