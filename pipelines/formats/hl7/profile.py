"""Profiles of HL7 v2 feeds: what a hospital's or vendor's messages leave open."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from pipelines.formats.fhir.structs import LOINC
from pipelines.formats.flat.profile import Profile, StrictModel
from vitalake.vocabulary import load_vocabulary

SYSTEMS = {"LN": LOINC, "SCT": "http://snomed.info/sct", "MDC": "urn:iso:std:iso:11073:10101"}
"""HL7 table 0396, the part that matters here → FHIR's name of the code system."""


class PatientNumber(StrictModel):
    """Which of the numbers of PID-3 names the patient; nothing said: the first."""

    authority: str | None = None
    type: str | None = None


class Hl7Profile(Profile):
    """What a feed of HL7 v2 messages leaves open.

    Attributes:
        patient: which number of PID-3 counts; without a match the message has no subject.
        systems: assigning authority → what is written before its numbers; empty: nothing.
        codes: ``<OBX-3's system>|<its code>`` → LOINC.
        units: OBX-6's text, or ``<its system>|<its code>``, → UCUM.
        ignore: codes, as in ``codes``, whose values are nobody's business here.
        identity: ``filler`` where OBR-3 names a result; ``time`` where it names a session, and the time a result.
        unassigned: what a message without a patient is of: its device, else its bed; or its bed, else its device.
        processing: of MSH-11 which are taken: P (production, and where nothing is said), T (training), D (debugging).
        updates: what an ADT A08 of a patient that was not moved means: the admission told anew, or nothing.
        stays: of PV1-2 which are of who stays in the hospital, so that a ward without a bed says where they are.
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
        """Return whether messages are taken that say this in MSH-11: a test must not look like a patient."""
        said = processing.strip().upper()
        return said not in ("T", "D") or said in self.processing

    @model_validator(mode="after")
    def _holds(self) -> Hl7Profile:
        vocabulary = load_vocabulary()
        for said, code in self.codes.items():
            if code not in vocabulary.codes:
                raise ValueError(f"codes.{said}: not a code of the vocabulary")
        for said, unit in self.units.items():
            if vocabulary.unit_index(unit) < 0:
                raise ValueError(f"units.{said}: not a unit of the vocabulary")
        for said in (*self.codes, *self.ignore):
            if not re.fullmatch(r"[^|]*\|[^|]+", said):
                raise ValueError("codes and ignore: write <system>|<code>")
        if set(self.codes) & self.ignore:
            raise ValueError("ignore: a code that codes maps")
        return self
