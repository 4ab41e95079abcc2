"""Vocabularies of homes, for tests."""

from __future__ import annotations

from pathlib import Path

from vitalake import declarations

LAB = """\
codes:
  "2157-6": {name: Creatine kinase, unit: U/L, low: 0, high: 500000, source: the laboratory's handbook 2026}
units:
  families:
    osmolality: {mosm/kg: 1}
    catalytic concentration: {kat/L: 6.0e+7}
  spellings:
    mosm/kg: [milliosmol/kg]
local:
  99LAB:
    name: City Hospital laboratory
    form: 'GLU|CK|CPK|NA|NEW|N[0-9]{1,4}'
    also: ["http://city.example/lab"]
    codes:
      GLU: {loinc: 2345-7, unit: mg/dL, source: "directory of 2026-01, no. 12"}
      CK: {loinc: 2157-6, source: "directory of 2026-01, no. 40"}
forms:
  icd-10-gm: {form: '[A-Z][0-9]{2}(\\.[0-9]{1,2})?', source: "BfArM, ICD-10-GM 2026"}
"""


def declare(home: Path, text: str = LAB, *, name: str = "lab") -> Path:
    """Write a vocabulary file of a home, take the home into use, and return the file."""
    path = home / "vocabulary" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    declarations.use(home)
    return path
