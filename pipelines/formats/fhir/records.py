"""Decodes FHIR R4 resources to rows of patients, stays, diagnoses and device associations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec

from pipelines.formats.fhir.elements import checked, own_name, reference_of, version_of
from pipelines.formats.fhir.paths import fhir_path, reason_of
from pipelines.formats.fhir.places import place_of
from pipelines.formats.fhir.record_structs import (
    DATASET_RESOURCES,
    Address,
    Condition,
    Device,
    DeviceUseStatement,
    Encounter,
    Hospitalization,
    HumanName,
    Patient,
    Resource,
    ShownConcept,
    TypedIdentifier,
    message_type,
)  # fmt: skip
from pipelines.formats.fhir.structs import Coding, Concept, SkippedResource
from pipelines.formats.shared.categories import category_of, load_categories
from pipelines.formats.shared.encoded import Refused
from pipelines.formats.shared.parsing import PARSE_ERRORS, JsonMessages, collector_paused
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.records import (
    BORN_IN,
    CLASS_TOLD,
    DIED_TOLD,
    GOES_ON,
    ID_TOLD,
    OUTPATIENT,
    OVER_TOLD,
    PLACE_TOLD,
    decoded_records,
)
from pipelines.formats.shared.refusals import MOST_ROWS
from pipelines.formats.shared.result import Decoded, Reject
from pipelines.formats.shared.times import names_a_place
from pipelines.online_store.facts import DELETED

Row = dict[str, Any]

CODE_SYSTEMS = {
    "http://hl7.org/fhir/sid/icd-10-cm": "ICD10CM",
    "http://hl7.org/fhir/sid/icd-9-cm": "ICD9CM",
    "http://hl7.org/fhir/sid/icd-10": "ICD10",
    "http://snomed.info/sct": "SNOMEDCT",
}
"""URI of a code system of diagnoses → its name in the dataset. The first system here that a Condition uses counts."""

_PLANNED = frozenset({"planned", "cancelled", "intended", "on-hold"})
_OVER = frozenset({"finished", "completed", "discharged"})
"""Statuses of a stay that is over; ``completed`` and ``discharged`` are R5's."""

_GOING_ON = frozenset({"arrived", "triaged", "in-progress", "onleave"})
"""Statuses of a stay that goes on; if such a stay has an end, the end is only planned."""

_OUTPATIENT = frozenset({"AMB", "HH", "VR", "FLD"})
"""Classes of visits, also at home or by telephone; a series of visits can go on for years."""

_REFUSED = "refused"
"""Key in rows of diagnoses: why the lake refuses the message, or None. The ward can use the row in any case."""

_MISTAKE = "entered-in-error"
_NEVER = frozenset({_MISTAKE, "refuted"})
_PAST = frozenset({"inactive", "remission", "resolved"})
"""Statuses of a diagnosis: _NEVER, it never applied; _PAST, it no longer applies."""

_STATUS, _TEXT = msgspec.json.Decoder(Concept | str | None), msgspec.json.Decoder(str | None)

_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


class FhirRecordDecoder:
    """Decodes FHIR R4 JSON to rows of ``patient``, ``encounter``, ``condition`` or ``device_association``."""

    version = "2"

    def __init__(self, dataset: str, *, max_message_bytes: int = 1_048_576) -> None:
        """Make a decoder; not to be shared between threads.

        Args:
            dataset: one of record_structs.DATASET_RESOURCES.
            max_message_bytes: longer messages are rejected unread.
        """
        self.name = f"fhir-r4-{dataset.replace('_', '-')}"
        self._dataset, self._wanted = dataset, DATASET_RESOURCES[dataset]
        kinds, self._bundle = message_type(dataset)
        self._resource = self._wanted[0].__name__
        self._messages: JsonMessages[Any] = JsonMessages(
            msgspec.json.Decoder(kinds).decode, max_message_bytes=max_message_bytes, refused=self._refused
        )

    def _refused(self, error: Exception) -> tuple[Reason, str]:
        return reason_of(error), fhir_path(str(error), resource=self._resource)

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Return rows and rejects; never raises for what a message holds."""
        with collector_paused():
            rejects: dict[int, Reject] = {}
            rows, message, empty = self._messages.rows(values, self._rows_of, rejects)
            identities = [row.pop("identity", None) for row in rows]
            online_only = _online_only_rows(rows, message, rejects)
            decoded = replace(
                decoded_records(self._dataset, rows, identities, message, rejects), online_only=online_only
            )
            decoded.tombstones.extend(i for i, value in enumerate(values) if value is None)
            decoded.empty.extend(empty)
            return decoded

    def _rows_of(self, message: Any) -> list[Row]:
        """Return the rows of a resource, or of the dataset's resources in a Bundle."""
        if isinstance(message, SkippedResource):
            return []
        if not isinstance(message, self._bundle):
            return list(_rows(message, None))
        if message.implicitRules is not None:  # type: ignore[attr-defined]
            raise Refused(Reason.MODIFIED, "Bundle.implicitRules")
        entries = message.entry  # type: ignore[attr-defined]
        if not entries:
            raise Refused(Reason.NO_VALUE, "Bundle.entry")
        wanted = [entry for entry in entries if isinstance(entry.resource, self._wanted)]
        if any(bytes(entry.modifierExtension) for entry in wanted):
            raise Refused(Reason.MODIFIED, "Bundle.entry.modifierExtension")
        found = [row for entry in wanted for row in _rows(entry.resource, entry.fullUrl)]
        if len(found) > MOST_ROWS:
            raise Refused(Reason.TOO_MANY_ROWS)
        return found


def _online_only_rows(rows: Sequence[Row], message: Sequence[int], rejects: dict[int, Reject]) -> list[tuple[int, Row]]:
    """Return the diagnoses that only the ward can use, and refuse the messages of rows that carry a reason."""
    diagnoses = [(i, row) for i, row in zip(message, rows, strict=True) if _REFUSED in row]
    for i, row in diagnoses:
        if (refused := row.pop(_REFUSED)) is not None:
            rejects.setdefault(i, Reject(i, refused.reason, refused.path))
    lacking = {i for i, row in diagnoses if None in (row["encounter_id"], row["recorded_at"])}
    return [(i, row) for i, row in diagnoses if i in lacking or i in rejects]


def _rows(resource: Resource, full_url: str | None) -> Iterator[Row]:
    kind = type(resource).__name__
    if resource.implicitRules is not None or bytes(resource.modifierExtension):
        raise Refused(Reason.MODIFIED, f"{kind}.modifierExtension")
    row = _MAKERS[type(resource)](resource, own_name(resource.id, full_url))
    if row is not None:
        row["version"] = _of_meta(resource, version_of) or 0
        row.setdefault("available_at", _of_meta(resource, updated_of))
        yield row


def _of_meta(resource: Resource, read: Callable[[bytes], Any]) -> Any:
    raw = bytes(resource.meta)
    if not raw or raw == b"null":
        return None
    kind = type(resource).__name__
    try:
        return read(raw)
    except Refused as refused:
        raise Refused(refused.reason, f"{kind}.meta.lastUpdated") from None
    except PARSE_ERRORS as error:
        raise Refused(reason_of(error), f"{kind}.meta") from None


class _Updated(msgspec.Struct, gc=False):
    lastUpdated: str | None = None


_UPDATED = msgspec.json.Decoder(_Updated)


def updated_of(raw: bytes) -> datetime | None:
    """Return ``meta.lastUpdated`` of a resource's ``meta``.

    Raises:
        Refused: it is not an instant.
    """
    text = _UPDATED.decode(raw).lastUpdated
    return instant_of(text, "meta.lastUpdated") if text else None


def instant_of(text: str | None, path: str) -> datetime | None:
    """Return the instant of a FHIR dateTime; None for None.

    Raises:
        Refused: the text is not a full date and time with a zone.
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text) if len(text) >= len("2026-11-23T10:00:00Z") else None
    except ValueError:
        moment = None
    if moment is None or not names_a_place(moment) or not 1 < moment.year < 9999:
        raise Refused(Reason.BAD_TIME, path)
    return moment.astimezone(UTC)


def _reference(kind: str, raw: msgspec.Raw, path: str) -> str | None:
    text = bytes(raw)
    if not text or text == b"null":
        return None
    try:
        return reference_of(kind, text)
    except Refused as refused:
        raise Refused(refused.reason, path) from None
    except PARSE_ERRORS as error:
        raise Refused(reason_of(error), path) from None


def _patient_of(raw: msgspec.Raw, path: str) -> str:
    found = _reference("Patient", raw, path)
    if found is None:
        raise Refused(Reason.NO_SUBJECT, path)
    return found


# -- resources ---------------------------------------------------------------------------------------------------


_DAY, _REST = len("2018-05-03"), ("", "-01", "-01-01")


def _patient(patient: Patient, name: str | None) -> Row:
    given = patient.birthDate
    try:
        dates = [date.fromisoformat(given + rest) for rest in _REST if len(given + rest) == _DAY] if given else []
    except ValueError:
        raise Refused(Reason.BAD_TIME, "Patient.birthDate") from None
    born = dates[0] if given and len(given) == _DAY else None
    return {
        "patient_id": name,
        "sex": category_of("patient.sex", patient.gender) if patient.gender else "unknown",
        "name": _name(patient.name),
        "mrn": _record_number(patient.identifier),
        "address": _address(patient.address),
        "birth_date": born,
        BORN_IN: given if dates and born is None else None,
        DIED_TOLD: _died(patient),
    }


def _died(patient: Patient) -> str | None:
    """Return the time of a patient's death, ``yes`` if it is not a full time, DELETED if they live; None: not given."""
    if patient.deceasedDateTime is None:
        return None if patient.deceasedBoolean is None else "yes" if patient.deceasedBoolean else DELETED
    try:
        at = instant_of(patient.deceasedDateTime, "Patient.deceasedDateTime")
    except Refused:
        at = None
    return at.isoformat() if at is not None else "yes"


def _name(names: list[HumanName]) -> str | None:
    """Return given names and family name; the official name counts first, old names never."""
    usable = [n for n in names if n.use not in ("old", "maiden", "temp")]
    for name in sorted(usable, key=lambda n: n.use != "official"):
        text = " ".join([*name.given, *([name.family] if name.family else [])]) or name.text
        if text:
            return checked(text)
    return None


def _record_number(identifiers: list[TypedIdentifier]) -> str | None:
    for identifier in identifiers:
        kinds = {coding.code for coding in identifier.type.coding} if identifier.type else set()
        if "MR" in kinds and identifier.value:
            return checked(identifier.value)
    return None


def _address(addresses: list[Address]) -> str | None:
    for address in addresses:
        if address.use == "old":
            continue
        city = " ".join(part for part in (address.postalCode, address.city) if part)
        parts = [*address.line, city, address.state or "", address.country or ""]
        text = ", ".join(part for part in parts if part) or address.text
        if text:
            return checked(text)
    return None


def _encounter(encounter: Encounter, name: str | None) -> Row | None:
    if encounter.status in _PLANNED:
        return None
    if encounter.status == _MISTAKE:
        # The dataset has no column for a mistake, so staff must look at the dead letter.
        raise Refused(Reason.BAD_STATUS, "Encounter.status")
    period = encounter.period or encounter.actualPeriod
    stay = encounter.hospitalization or encounter.admission or Hospitalization()
    if bytes(stay.modifierExtension):
        raise Refused(Reason.MODIFIED, "Encounter.hospitalization.modifierExtension")
    began = "ed" if "EMER" in _classes(encounter.kind) else _category("admission_type", stay.admitSource)
    admitted = instant_of(period.start if period else None, "Encounter.period.start")
    ended = instant_of(period.end if period else None, "Encounter.period.end")
    return {
        "encounter_id": name,
        "patient_id": _patient_of(encounter.subject, "Encounter.subject"),
        "admitted_at": admitted,
        PLACE_TOLD: place_of(encounter.location, admitted),
        "discharged_at": ended,
        OVER_TOLD: _over(encounter.status, ended),
        CLASS_TOLD: OUTPATIENT if _classes(encounter.kind) & _OUTPATIENT else None,
        "admission_type": began,
        "discharge_disposition": _category("discharge_disposition", stay.dischargeDisposition),
    }


def _over(status: str | None, ended: datetime | None) -> str | None:
    """Return whether the status ends the stay (``yes``), or continues it although it has an end (GOES_ON)."""
    if status in _OVER:
        return "yes"
    return GOES_ON if ended is not None and status in _GOING_ON else None


def _classes(kind: Coding | list[Concept] | None) -> set[str | None]:
    """Return the codes of an Encounter's class: R4 has one Coding, R5 several concepts."""
    codings = [coding for concept in kind for coding in concept.coding] if isinstance(kind, list) else [kind]
    return {coding.code for coding in codings if coding is not None}


def _category(column: str, concept: ShownConcept | None) -> str | None:
    """Return the category of a concept, by its codings, else by its texts.

    An unknown concept, or one whose codings contradict each other, stays as sent: masking does not publish it, and
    counts it.
    """
    if concept is None:
        return None
    categories = load_categories()[f"encounter.{column}"]
    codings = [coding for coding in concept.coding if coding.code]
    known = {categories.of_code(coding.system, coding.code or "") for coding in codings} - {None}
    if len(known) > 1:  # for example both "home" and "died"
        return checked(f"{codings[0].system or ''}|{codings[0].code}")
    texts = [text for text in (concept.text, *(coding.display for coding in concept.coding)) if text]
    # A code without a system can be a word of the list; a code with a system is never read as a word.
    texts += [coding.code for coding in codings if coding.code and not coding.system]
    words = (categories.of_words(text) for text in texts)
    found = next((category for category in (*known, *words) if category), None)
    if found is None and codings:
        found = checked(f"{codings[0].system or ''}|{codings[0].code}")
    return found or (checked(texts[0]) if texts else None)


def _condition(condition: Condition, _: str | None) -> Row:
    """Return the row of a diagnosis; under _REFUSED stands why the lake refuses it, if it does. The ward can use it."""
    verified = _codes(condition.verificationStatus)
    refused = Refused(Reason.BAD_STATUS, "Condition.verificationStatus") if verified & _NEVER else None
    coding, recorded = _diagnosis(condition.code.coding if condition.code else []), None
    if coding is None:  # the ward can still take back an earlier diagnosis by the Condition's id
        refused = refused or Refused(Reason.NO_CODE, "Condition.code")
    system = CODE_SYSTEMS[coding.system or ""] if coding else None
    code = checked(coding.code or "") if coding else None
    try:
        recorded = instant_of(condition.recordedDate, "Condition.recordedDate")
    except Refused as error:
        refused = refused or error
    clinical = _codes(_if_readable(_STATUS, condition.clinicalStatus))
    until = _if_readable(_TEXT, condition.abatementDateTime)
    return {
        "encounter_id": _reference("Encounter", condition.encounter, "Condition.encounter"),
        "code_system": system,
        "code": code.replace(".", "") if code and system != "SNOMEDCT" else code,
        "patient_id": _patient_of(condition.subject, "Condition.subject"),
        "recorded_at": recorded,
        OVER_TOLD: "yes" if verified & _NEVER or clinical & _PAST else until or None,
        ID_TOLD: checked(condition.id) if condition.id else None,
        _REFUSED: refused,
    }


def _codes(status: Concept | str | None) -> set[str | None]:
    return {status} if isinstance(status, str) else {c.code for c in status.coding} if status else set()


def _if_readable(decoder: msgspec.json.Decoder[Any], raw: msgspec.Raw) -> Any:
    """Return an element that only the ward uses; None if it cannot be read: the message is not refused for it."""
    try:
        return decoder.decode(bytes(raw) or b"null")
    except PARSE_ERRORS:
        return None


def _diagnosis(codings: list[Coding]) -> Coding | None:
    for system in CODE_SYSTEMS:
        for coding in codings:
            if coding.system == system and coding.code:
                return coding
    return None


def _device(device: Device, name: str | None) -> Row | None:
    """Return the association of a device with its patient since the last update; None if it has had no patient yet.

    A Device does not say which patient it was with before an update or by mistake: such messages are refused, so that
    staff look at them.
    """
    patient = _reference("Patient", device.patient, "Device.patient")
    if patient is None and (_of_meta(device, version_of) or 0) > 1:
        raise Refused(Reason.NO_SUBJECT, "Device.patient")
    if patient is None or name is None:
        return None
    if device.status == _MISTAKE:
        raise Refused(Reason.BAD_STATUS, "Device.status")
    since = _of_meta(device, updated_of)
    if since is None:
        raise Refused(Reason.NO_TIME, "Device.meta.lastUpdated")
    return {
        "identity": f"fhir|device|{len(name)}|{name}|{(since - _EPOCH) // _MICROSECOND}".encode(),
        "device_id": name,
        "patient_id": patient,
        "valid_from": since,
        "status": "active",
    }


def _use(use: DeviceUseStatement, name: str | None) -> Row | None:
    if use.status in _PLANNED:
        return None
    identifiers = sorted((i.system or "", i.value) for i in use.identifier if i.value)
    called = "|".join(identifiers[0]) if identifiers else name
    if called is None:
        raise Refused(Reason.WRONG_SHAPE, "DeviceUseStatement.identifier")
    period = use.timingPeriod
    begun = instant_of(period.start if period else None, "DeviceUseStatement.timingPeriod.start")
    if begun is None:
        raise Refused(Reason.NO_TIME, "DeviceUseStatement.timingPeriod.start")
    device = _reference("Device", use.device, "DeviceUseStatement.device")
    if device is None:
        raise Refused(Reason.WRONG_SHAPE, "DeviceUseStatement.device")
    return {
        "identity": f"fhir|use|{checked(called)}".encode(),
        "device_id": device,
        "patient_id": _patient_of(use.subject, "DeviceUseStatement.subject"),
        "valid_from": begun,
        "valid_to": instant_of(period.end if period else None, "DeviceUseStatement.timingPeriod.end"),
        "status": _MISTAKE if use.status == _MISTAKE else "active",
    }


_MAKERS: dict[type[Resource], Callable[[Any, str | None], Row | None]] = {
    Patient: _patient,
    Encounter: _encounter,
    Condition: _condition,
    Device: _device,
    DeviceUseStatement: _use,
}
