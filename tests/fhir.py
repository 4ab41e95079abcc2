"""Small FHIR messages for tests, built by hand so that they do not share a bug with the simulator."""

from __future__ import annotations

import json
from typing import Any


def observation(number: int, *, patient: str = "p-1", value: float = 72.0, **changes: Any) -> dict[str, Any]:
    """Return a heart-rate Observation; ``changes`` replace top-level elements, None removes one."""
    resource: dict[str, Any] = {
        "resourceType": "Observation",
        "meta": {"versionId": "1"},
        "identifier": [{"system": "urn:oid:2.16.840.1.113883.19", "value": f"mon-{number}"}],
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
        "subject": {"reference": f"Patient/{patient}"},
        "encounter": {"reference": "Encounter/e-1"},
        "device": {"reference": "Device/d-1"},
        "effectiveDateTime": f"2025-06-01T10:{number // 60 % 60:02d}:{number % 60:02d}Z",
        "valueQuantity": {"value": value, "unit": "/min", "system": "http://unitsofmeasure.org", "code": "/min"},
    }
    for name, changed in changes.items():
        if changed is None:
            resource.pop(name)
        else:
            resource[name] = changed
    return resource


def message(number: int, **changes: Any) -> bytes:
    """Return the same as the bytes of a message."""
    return json.dumps(observation(number, **changes), separators=(",", ":")).encode()
