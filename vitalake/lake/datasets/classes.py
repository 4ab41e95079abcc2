"""The data classes: what kind of data a column has. Rules say what happens to each class.

The list is closed. A misspelt class would name no rule, so that nothing of its column would be published, but it would
also not be one of those whose values are sealed: the column would lie in clear in the restricted zone.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DataClass:
    """One data class.

    Attributes:
        meaning: for people: which data have it.
        sealed: whether its values are sealed, one by one, in the restricted zone.
        repeats: whether equal sealed values of a patient have equal bytes, so that a column with them can be in a key.
        ours: whether only the lake's own columns have it; a home cannot declare it.
    """

    meaning: str
    sealed: bool = False
    repeats: bool = False
    ours: bool = False


CLASSES: dict[str, DataClass] = {
    "address": DataClass("where somebody lives", sealed=True),
    "age": DataClass("age in completed years, a number"),
    "care-event": DataClass("how a stay or another part of the care begins, goes on and ends"),
    "care-location": DataClass("where care is given: wards and kinds of wards; beds are a device-identifier"),
    "date-of-birth": DataClass("when somebody was born", sealed=True),
    "date-of-processing": DataClass("when the lake, or a system before it, handled the row"),
    "date-of-service": DataClass("when something was done, measured or known of the patient"),
    "demographic": DataClass("what risks differ by, such as the sex"),
    "device-identifier": DataClass("number or name of a device or a bed, a text", sealed=True, repeats=True),
    "diagnosis-code": DataClass("diagnosis: a code of a classification, no words"),
    "document-code": DataClass("kind, form and size of a document; neither its title nor what it says"),
    "encounter-identifier": DataClass("number of a stay, a text", sealed=True, repeats=True),
    "encrypted": DataClass("a message, encrypted as a whole", ours=True),
    "free-text": DataClass(
        "words of people; numbers of persons other than the patient; telephone numbers", sealed=True
    ),
    "measurement": DataClass("a measured value, a score or an answer"),
    "measurement-code": DataClass("what was measured, in which unit, and whether it counts"),
    "medical-record-number": DataClass(
        "the patient's number in the hospital; a home's datasets cannot have it", sealed=True, repeats=True
    ),
    "medication-code": DataClass("medicine and route: a code of a classification, no words"),
    "name": DataClass("name of a person", sealed=True),
    "patient-identifier": DataClass("the source's number of the patient, a text", sealed=True, repeats=True),
    "procedure-code": DataClass("what was done: a code of a classification, no words"),
    "provenance": DataClass("from which source and message a row is"),
    "record-identifier": DataClass("keyed hash of the source's name for the record"),
    "record-version": DataClass("what tells a correction from what it corrects: versions, and whether a row counts"),
    "subject": DataClass("keyed hash of the patient or the device, by which rows are found", ours=True),
}
"""Every class that a declaration or a rule may name."""


def nearest(name: str) -> str:
    """Return what to do about a class that is not known: the classes with similar names, or where all are listed."""
    similar = [f"'{known}'" for known in difflib.get_close_matches(name, CLASSES, n=2)]
    said = f"The nearest are {' and '.join(similar)}" if len(similar) > 1 else f"The nearest is {''.join(similar)}"
    return f"{said}; " * bool(similar) + "docs/reference/datasets.md lists all classes."
