"""msgspec types of FHIR R4's Patient, Encounter, Condition, Device and DeviceUseStatement, with only what is read."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from pipelines.formats.fhir.structs import Coding, Concept, entry_types, with_skipped

_ABSENT = Raw(b"")


class Period(msgspec.Struct, gc=False):
    """A period of time."""

    start: str | None = None
    end: str | None = None


class TypedIdentifier(msgspec.Struct, gc=False):
    """A business identifier with its type."""

    value: str | None = None
    system: str | None = None
    use: str | None = None
    type: Concept | None = None


class HumanName(msgspec.Struct, gc=False):
    """A name."""

    use: str | None = None
    text: str | None = None
    family: str | None = None
    given: list[str] = []


class Address(msgspec.Struct, gc=False):
    """An address."""

    use: str | None = None
    text: str | None = None
    line: list[str] = []
    postalCode: str | None = None
    city: str | None = None
    state: str | None = None
    country: str | None = None


class Resource(msgspec.Struct, gc=False, kw_only=True):
    """The elements that all resources have."""

    id: str | None = None
    meta: Raw = _ABSENT
    implicitRules: str | None = None
    modifierExtension: Raw = _ABSENT


class Patient(Resource, gc=False, tag_field="resourceType", tag="Patient", kw_only=True):
    """A patient."""

    identifier: list[TypedIdentifier] = []
    name: list[HumanName] = []
    gender: str | None = None
    birthDate: str | None = None
    deceasedBoolean: bool | None = None
    deceasedDateTime: str | None = None
    address: list[Address] = []


class ShownCoding(Coding, gc=False):
    """A code with its display text."""

    display: str | None = None


class ShownConcept(msgspec.Struct, gc=False):
    """A CodeableConcept with the display texts of its codes."""

    coding: list[ShownCoding] = []
    text: str | None = None


class Hospitalization(msgspec.Struct, gc=False):
    """How a stay began and ended."""

    modifierExtension: Raw = _ABSENT
    admitSource: ShownConcept | None = None
    dischargeDisposition: ShownConcept | None = None


class Encounter(Resource, gc=False, tag_field="resourceType", tag="Encounter", kw_only=True, rename={"kind": "class"}):
    """A stay; also as R5 writes it, where class is a list, period actualPeriod, and hospitalization admission."""

    status: str
    kind: Coding | list[Concept] | None = None
    subject: Raw = _ABSENT
    period: Period | None = None
    actualPeriod: Period | None = None
    hospitalization: Hospitalization | None = None
    admission: Hospitalization | None = None
    location: Raw = _ABSENT


class Condition(Resource, gc=False, tag_field="resourceType", tag="Condition", kw_only=True):
    """A diagnosis; also as STU3 writes it, where the statuses are plain texts."""

    clinicalStatus: Raw = _ABSENT
    verificationStatus: Concept | str | None = None
    abatementDateTime: Raw = _ABSENT
    code: Concept | None = None
    subject: Raw = _ABSENT
    encounter: Raw = _ABSENT
    recordedDate: str | None = None


class Device(Resource, gc=False, tag_field="resourceType", tag="Device", kw_only=True):
    """A device, and the patient it is with."""

    status: str | None = None
    patient: Raw = _ABSENT


class DeviceUseStatement(Resource, gc=False, tag_field="resourceType", tag="DeviceUseStatement", kw_only=True):
    """The use of a device for a patient."""

    status: str
    identifier: list[TypedIdentifier] = []
    subject: Raw = _ABSENT
    device: Raw = _ABSENT
    timingPeriod: Period | None = None


DATASET_RESOURCES: dict[str, tuple[type[Resource], ...]] = {
    "patient": (Patient,),
    "encounter": (Encounter,),
    "condition": (Condition,),
    "device_association": (Device, DeviceUseStatement),
}
"""Dataset → the resources from which its rows are made."""


def message_type(dataset: str) -> tuple[object, type[msgspec.Struct]]:
    """Return the type of a dataset's messages, and the type of a Bundle among them."""
    wanted = DATASET_RESOURCES[dataset]
    entry = msgspec.defstruct(
        "Entry",
        [("resource", entry_types(*wanted)), ("fullUrl", str | None, None), ("modifierExtension", Raw, _ABSENT)],
        gc=False,
    )
    bundle = msgspec.defstruct(
        "Bundle",
        [("entry", list[entry], []), ("implicitRules", str | None, None)],  # type: ignore[valid-type]
        tag_field="resourceType",
        tag="Bundle",
        gc=False,
    )
    return with_skipped(*wanted) | bundle, bundle
