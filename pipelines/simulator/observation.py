"""FHIR R4 Observations as byte templates: the parts that are the same for every value are encoded once per device."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ISSUED_AFTER_US = 5_000_000  # a value is issued this long after it was measured


class Message(NamedTuple):
    """One Kafka record that is to be sent.

    Attributes:
        due_us: when it is measured and sent, microseconds since 1970 UTC; a fault does not change it.
        device: the device that sends it.
        key: the patient's id, so that all messages of a patient are in one partition, in order.
        value: the Observation; None is a tombstone.
        fault: a member of ``faults.FAULTS``, or "" for a message without a fault.
    """

    due_us: int
    device: str
    key: bytes
    value: bytes | None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Vital:
    """How a vital sign is coded: LOINC, and UCUM for its unit."""

    loinc: str
    display: str
    ucum: str
    unit: str


# The codes that the FHIR R4 vital-signs profiles require (http://hl7.org/fhir/R4/observation-vitalsigns.html).
VITALS = {
    "heart_rate": Vital("8867-4", "Heart rate", "/min", "beats/minute"),
    "respiratory_rate": Vital("9279-1", "Respiratory rate", "/min", "breaths/minute"),
    "spo2": Vital("2708-6", "Oxygen saturation", "%", "%"),
    "temp_c": Vital("8310-5", "Body temperature", "Cel", "C"),
    "sbp": Vital("8480-6", "Systolic blood pressure", "mm[Hg]", "mmHg"),
    "dbp": Vital("8462-4", "Diastolic blood pressure", "mm[Hg]", "mmHg"),
    "map": Vital("8478-0", "Mean blood pressure", "mm[Hg]", "mmHg"),
    "weight_kg": Vital("29463-7", "Body weight", "kg", "kg"),
    "height_cm": Vital("8302-2", "Body height", "cm", "cm"),
}
PRESSURES = ("sbp", "dbp", "map")
PANEL = Vital("85354-9", "Blood pressure panel", "", "")

_ID, _EFFECTIVE, _ISSUED, _VALUE = "@@id", "@@effective", "@@issued", "@@value"
_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"


def template(vitals: tuple[str, ...], *, system: str, patient: str, encounter: str, device: str) -> bytes:
    """Return a ``%``-template: fill in identifier, effectiveDateTime, issued, then each value, all as bytes.

    Args:
        vitals: names in ``VITALS``: one for a single Observation, several for a blood-pressure panel with components.
        system: the identifier's system, a URI.
        patient: logical id of the Patient.
        encounter: logical id of the Encounter.
        device: logical id of the Device.
    """
    resource: dict[str, object] = {
        "resourceType": "Observation",
        "meta": {"versionId": "1"},
        "identifier": [{"system": system, "value": _ID}],
        "status": "final",
        "category": [{"coding": [{"system": _CATEGORY, "code": "vital-signs"}]}],
        "code": _concept(VITALS[vitals[0]] if len(vitals) == 1 else PANEL),
        "subject": {"reference": f"Patient/{patient}"},
        "encounter": {"reference": f"Encounter/{encounter}"},
        "effectiveDateTime": _EFFECTIVE,
        "issued": _ISSUED,
        "device": {"reference": f"Device/{device}"},
    }
    if len(vitals) == 1:
        resource["valueQuantity"] = _quantity(VITALS[vitals[0]])
    else:
        resource["component"] = [
            {"code": _concept(VITALS[name]), "valueQuantity": _quantity(VITALS[name])} for name in vitals
        ]
    encoded = msgspec.json.encode(resource).replace(b"%", b"%%")
    for slot in (_ID, _EFFECTIVE, _ISSUED):
        encoded = encoded.replace(slot.encode(), b"%b")
    return encoded.replace(f'"{_VALUE}"'.encode(), b"%b")


def _concept(vital: Vital) -> dict[str, object]:
    return {"coding": [{"system": "http://loinc.org", "code": vital.loinc, "display": vital.display}]}


def _quantity(vital: Vital) -> dict[str, object]:
    return {"value": _VALUE, "unit": vital.unit, "system": "http://unitsofmeasure.org", "code": vital.ucum}


def instant(microseconds: int) -> bytes:
    """Return a FHIR instant in UTC, to the millisecond.

    >>> instant(1_500_000)
    b'1970-01-01T00:00:01.500Z'
    """
    moment = EPOCH + timedelta(microseconds=microseconds)
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds").encode() + b"Z"


def number(value: float) -> bytes:
    """Return a JSON number; a whole one is written without a fraction.

    >>> number(84.0), number(39.4), number(-27.0)
    (b'84', b'39.4', b'-27')
    """
    return b"%d" % value if value == int(value) else repr(value).encode()
