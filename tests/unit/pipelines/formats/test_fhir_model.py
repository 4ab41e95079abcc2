"""Elements of FHIRPath expressions that FHIR does not have are found; those that it has are left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from governance.commands.policy import _check_formats
from pipelines.formats.fhir.declared import check_declared
from pipelines.formats.fhir.model import NoSuchElement, check_elements, check_resource
from vitalake import declarations
from vitalake.errors import SettingsError
from vitalake.lake.datasets.declared import load_dataset, published_datasets

GIVEN, SEEN, ASKED = "MedicationAdministration", "Observation", "QuestionnaireResponse"


@pytest.mark.parametrize(
    ("resource", "path"),
    [
        (GIVEN, "dosage.dose.value"),
        (GIVEN, "MedicationAdministration.dosage.rate.ofType(Ratio).numerator.value"),
        (GIVEN, "effective.ofType(dateTime) | effective.ofType(Period).start"),
        (GIVEN, "effectiveDateTime"),
        (GIVEN, "(effective as Period).end"),
        (GIVEN, "effective.as(FHIR.Period).end"),
        (GIVEN, "(medication.coding.where(system in ('a' | 'b')) | medication.coding).first().code"),
        (GIVEN, "dosage.route.coding.where($this.system = 'x' and code.exists()).code.first()"),
        (GIVEN, "extension('urn:x').value.ofType(Quantity).value"),
        (GIVEN, "extension.where(url = 'x').valueString"),
        (GIVEN, "contained.where(resourceType = 'x').anything"),
        (GIVEN, "note[0].text.substring(0, 3).length() > 2"),
        (GIVEN, "iif(dosage.dose.exists(), dosage.dose, dosage.rate.ofType(Quantity)).value"),
        (GIVEN, "performer.select(actor | function).first()"),
        (GIVEN, "%resource.anything"),
        (GIVEN, "status.is(code) or subject.reference.startsWith('x')"),
        (GIVEN, "-1 + 2"),
        (SEEN, "component.where(code.coding.code = 'x').value.ofType(Quantity).value"),
        (SEEN, "component.referenceRange.low.value"),
        (SEEN, "value.ofType(string).extension.url"),
        (SEEN, "meta.tag.code.union(identifier.value)"),
        (ASKED, "item.where(linkId = '1').item.answer.value.ofType(Coding).code"),
    ],
)
def test_elements_of_fhir_are_found(resource: str, path: str) -> None:
    check_elements(path, resource)


@pytest.mark.parametrize(
    ("resource", "path", "remedy"),
    [
        (GIVEN, "dosage.dos.value", "MedicationAdministration.dosage has dose, method, rate, route, site"),
        (GIVEN, "MedicationAdministration.dosage.dose.valeu", "Quantity has code, comparator, system, unit, value"),
        (GIVEN, "Observation.status", "MedicationAdministration has category, context, "),
        (GIVEN, "effective.ofType(Perod).start", "The element has the type Period or dateTime."),
        (GIVEN, "(effective as Timing).event", "The element has the type Period or dateTime."),
        (GIVEN, "effective.start.value", "dateTime has none"),
        (
            GIVEN,
            "dosage.route.coding.where(sytem = 'x').code",
            "Coding has code, display, system, ",
        ),
        (GIVEN, "status | statsReason", "MedicationAdministration has "),
        (GIVEN, "effectiveInstant", "effective, "),
        (GIVEN, "note[0].txt", "Annotation has author, time"),
        (SEEN, "component.referenceRange.lwo.value", "Observation.referenceRange has age, appliesTo, high, low, type"),
        (ASKED, "item.item.anwser", "QuestionnaireResponse.item has "),
    ],
)
def test_others_are_found_with_what_there_is_instead(resource: str, path: str, remedy: str) -> None:
    with pytest.raises(NoSuchElement) as caught:
        check_elements(path, resource)
    assert remedy in caught.value.remedy


def test_a_resource_is_one_of_fhir() -> None:
    check_resource(GIVEN)
    check_resource("Bundle")
    for name in ("MedicationAdminstration", "Quantity", "code"):
        with pytest.raises(NoSuchElement):
            check_resource(name)


def test_what_ships_names_elements_of_fhir() -> None:
    for name in published_datasets():
        check_declared(load_dataset(name))


DECLARED = """name: drug
kind: record
key: [given_no, version]
day_of: given_at
fhir: {resource: MedicationAdministration, skip: "status = 'not-done'"}
columns:
  - {name: given_no, type: binary, class: record-identifier, hashed: true, description: x}
  - {name: patient_id, type: string, class: patient-identifier, fhir: subject, description: x}
  - {name: dose, type: float64, class: measurement, fhir: dosage.dose.value, description: x}
  - {name: given_at, type: timestamp, class: date-of-service, fhir: effective.ofType(dateTime), description: x}
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "dosage.dose.value",
            "dosage.dos.value",
            "an element that FHIR R4 does not have: .*drug.yaml:9 .columns.2.fhir",
        ),
        ("status =", "staus =", "an element that FHIR R4 does not have: .*drug.yaml:5 .fhir.skip"),
        ("resource: Med", "resource: Mde", "a resource that FHIR R4 does not have: .*drug.yaml:5 .fhir.resource"),
        ("dosage.dose.value", "dosage.dose.frist()", "not valid FHIRPath, .*: .*drug.yaml:9 .columns.2.fhir"),
    ],
)
def test_policy_check_and_doctor_name_file_and_line(home: Path, old: str, new: str, said: str) -> None:
    (home / "datasets").mkdir()
    path = home / "datasets" / "drug.yaml"
    path.write_text(DECLARED)
    declarations.use(home)
    check_declared(load_dataset("drug"))
    path.write_text(DECLARED.replace(old, new))
    declarations.use(home)
    with pytest.raises(SettingsError, match=said):
        check_declared(load_dataset("drug"))
    with pytest.raises(SettingsError, match=said):
        _check_formats("drug")
