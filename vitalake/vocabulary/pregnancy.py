"""The diagnoses that say that a patient is pregnant during the stay: then no adult score is shown."""

from __future__ import annotations

import re

_SNOMED = {
    # Codes that clinical quality measures of the CMS use for pregnancy.
    "72892002": "normal pregnancy",
    "77386006": "pregnant",
    "83074005": "unplanned pregnancy",
    "169560008": "pregnant, urine test confirms",
    "169563005": "pregnant, on history",
    "169565003": "pregnant, planned",
    "237238006": "pregnancy with uncertain dates",
    "248985009": "presentation of pregnancy",
    "314204000": "early stage of pregnancy",
    # Trimesters, multiple pregnancies, and complications.
    "57630001": "first trimester pregnancy",
    "59466002": "second trimester pregnancy",
    "41587001": "third trimester pregnancy",
    "87527008": "term pregnancy",
    "47200007": "high risk pregnancy",
    "16356006": "multiple pregnancy",
    "65147003": "twin pregnancy",
    "398254007": "pre-eclampsia",
    "15938005": "eclampsia",
    "48194001": "pregnancy-induced hypertension",
    "11687002": "gestational diabetes mellitus",
    "14094001": "hyperemesis gravidarum",
    "54048003": "threatened abortion",
    "34801009": "ectopic pregnancy",
}
"""Codes one by one, without the narrower codes below them: SNOMED CT's hierarchy is licensed, and has thousands."""

_PREGNANT = {
    # ICD-10-CM 2026, chapter 15 without the puerperium (O85 to O92, O94), and Z32.01, Z33.1, Z34, Z3A.
    "ICD10CM": re.compile(r"O(?!8[5-9]|9[0-24])[0-9A]|Z3201|Z331|Z34|Z3A"),
    # ICD-10 of the WHO, the same chapter, and Z32.1, Z33, Z34, Z35.
    "ICD10": re.compile(r"O(?!8[5-9]|9[0-24])\d|Z321|Z3[345]"),
    # ICD-9-CM, 630 to 669 without delivered and after (fifth digit 4: postpartum), V22, V23 and V72.42.
    "ICD9CM": re.compile(r"(?:63\d|6[456]\d)(?!\d4)|V2[23]|V7242"),
    "SNOMEDCT": re.compile(rf"(?:{'|'.join(_SNOMED)})$"),
}


def says_pregnant(system: str | None, code: str | None) -> bool:
    """Return whether a diagnosis says that the patient is pregnant during the stay."""
    form = _PREGNANT.get(system or "")
    return form is not None and form.match((code or "").replace(".", "").upper()) is not None
