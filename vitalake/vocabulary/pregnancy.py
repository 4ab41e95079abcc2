"""Which diagnoses say that a patient is pregnant during the stay: for them no adult score is shown."""

from __future__ import annotations

import re

_PREGNANT = {
    # ICD-10-CM 2026, chapter 15 without the puerperium (O85 to O92, O94), and Z32.01, Z33.1, Z34, Z3A.
    "ICD10CM": re.compile(r"O(?!8[5-9]|9[0-24])[0-9A]|Z3201|Z331|Z34|Z3A"),
    # ICD-10 of the WHO, the same chapter, and Z32.1, Z33, Z34, Z35.
    "ICD10": re.compile(r"O(?!8[5-9]|9[0-24])\d|Z321|Z3[345]"),
    # ICD-9-CM, 630 to 669 without delivered and after (fifth digit 4: postpartum), V22, V23 and V72.42.
    "ICD9CM": re.compile(r"(?:63\d|6[456]\d)(?!\d4)|V2[23]|V7242"),
    # SNOMED CT: pregnant, high risk pregnancy, normal pregnancy, pre-eclampsia.
    "SNOMEDCT": re.compile(r"(?:77386006|47200007|72892002|398254007)$"),
}


def says_pregnant(system: str | None, code: str | None) -> bool:
    """Return whether a diagnosis says that the patient is pregnant during the stay."""
    form = _PREGNANT.get(system or "")
    return form is not None and form.match((code or "").replace(".", "").upper()) is not None
