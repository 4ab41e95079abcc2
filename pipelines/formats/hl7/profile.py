"""Profiles of HL7 v2 feeds: they settle what a hospital's or vendor's messages leave open."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from pipelines.formats.fhir.structs import LOINC
from pipelines.formats.flat.profile import Profile, StrictModel
from vitalake.vocabulary import load_vocabulary

SYSTEMS = {"LN": LOINC, "SCT": "http://snomed.info/sct", "MDC": "urn:iso:std:iso:11073:10101"}
"""Code system of HL7 table 0396 (only those used here) → its URI in FHIR."""


class PatientNumber(StrictModel):
    """Chooses the number of PID-3 that identifies the patient; without any key, the first."""

    authority: str | None = None
    type: str | None = None


class Hl7Profile(Profile):
    """Settles what a feed of HL7 v2 messages leaves open.

    Attributes:
        patient: which number of PID-3 counts; without a match the message has no subject.
        systems: assigning authority → the system written before its numbers; empty: none.
        codes: ``<system>|<code>`` of OBX-3 → LOINC.
        units: text of OBX-6, or its ``<system>|<code>`` → UCUM.
        ignore: codes, written as in ``codes``, whose values are skipped.
        identity: ``filler`` if OBR-3 identifies a result; ``time`` if it identifies a session: then the time is added.
        unassigned: whose a result without a patient is: its device's, else its bed's (``device``), or the other way
            round (``bed``).
        processing: accepted values of MSH-11: P (production, also if MSH-11 is empty), T (training), D (debugging).
        updates: meaning of an ADT A08 of a patient who was not moved: the admission again, or nothing.
        stays: values of PV1-2 of inpatients, for whom a ward without a bed counts as a place.
    """

    format: Literal["hl7-v2"]
    patient: PatientNumber = PatientNumber()
    systems: dict[str, str] = Field(default_factory=dict)
    codes: dict[str, str] = Field(default_factory=dict)
    units: dict[str, str] = Field(default_factory=dict)
    ignore: frozenset[str] = frozenset()
    identity: Literal["filler", "time"] = "filler"
    unassigned: Literal["device", "bed"] = "device"
    processing: frozenset[Literal["P", "T", "D"]] = frozenset({"P"})
    updates: Literal["admission", "ignore"] = "admission"
    stays: frozenset[str] = frozenset({"I", "E"})

    def takes(self, processing: str) -> bool:
        """Return whether messages with this MSH-11 are taken: a test must not show up as a real patient."""
        mode = processing.strip().upper()
        return mode not in ("T", "D") or mode in self.processing

    @model_validator(mode="after")
    def _check(self) -> Hl7Profile:
        vocabulary = load_vocabulary()
        for key, code in self.codes.items():
            if code not in vocabulary.codes:
                raise ValueError(f"codes.{key}: not a code of the vocabulary")
        for key, unit in self.units.items():
            if vocabulary.unit_index(unit) < 0:
                raise ValueError(f"units.{key}: not a unit of the vocabulary")
        for key in (*self.codes, *self.ignore):
            if not re.fullmatch(r"[^|]*\|[^|]+", key):
                raise ValueError("codes and ignore: write <system>|<code>")
        if set(self.codes) & self.ignore:
            raise ValueError("ignore: a code is also in codes; remove one of them")
        return self
