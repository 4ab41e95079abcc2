"""msgspec types of the parts of FHIR R4 that are read; everything else in a message is skipped unread.

Elements whose text repeats from message to message (code, subject, device …) stay raw here, and each distinct text is
decoded once. That halves the cost of a message.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal, Union

import msgspec
from msgspec import Meta, Raw

from vitalake.lake.datasets.declared import load_dataset, published_datasets

Status = Literal[
    "registered", "preliminary", "final", "amended", "corrected", "cancelled", "entered-in-error", "unknown"
]
STATUSES: tuple[str, ...] = Status.__args__  # type: ignore[attr-defined]
Comparator = Literal["<", "<=", ">=", ">"]

LOINC = "http://loinc.org"
UCUM = "http://unitsofmeasure.org"

_ABSENT = Raw(b"")
_Text = Annotated[str, Meta(min_length=1)]


class Coding(msgspec.Struct, gc=False):
    """A code of a code system."""

    code: _Text | None = None
    system: str | None = None


class Concept(msgspec.Struct, gc=False):
    """A CodeableConcept."""

    coding: list[Coding] = []
    text: str | None = None


class Identifier(msgspec.Struct, gc=False):
    """A business identifier."""

    value: _Text | None = None
    system: str | None = None
    use: str | None = None


class Reference(msgspec.Struct, gc=False):
    """A reference, literal or logical."""

    reference: _Text | None = None
    type: str | None = None
    identifier: Identifier | None = None


class ResourceMeta(msgspec.Struct, gc=False):
    """The parts of ``meta`` that order versions."""

    versionId: Annotated[str, Meta(pattern=r"^[A-Za-z0-9.\-]{1,64}\Z")] | None = None
    lastUpdated: str | None = None


class Quantity(msgspec.Struct, gc=False):
    """A measured amount."""

    value: float | None = None
    comparator: Comparator | None = None
    system: str | None = None
    code: str | None = None
    unit: str | None = None


class Valued(msgspec.Struct, gc=False):
    """The elements that an Observation and its components have in common.

    Other types of value (Range, Ratio, Period, SampledData, dateTime, time) are not read: such a message has no value.
    """

    code: Raw = _ABSENT
    valueQuantity: Raw = _ABSENT
    dataAbsentReason: Concept | None = None
    valueCodeableConcept: Concept | None = None
    valueString: str | None = None
    valueInteger: int | None = None
    valueBoolean: bool | None = None
    modifierExtension: Raw = _ABSENT


class Component(Valued, gc=False):
    """One value of a panel."""


class Observation(Valued, gc=False, tag_field="resourceType", tag="Observation", kw_only=True):
    """A measurement, single or a panel."""

    status: Status
    subject: Raw = _ABSENT
    focus: Raw = _ABSENT
    identifier: list[Identifier] = []
    meta: Raw = _ABSENT
    encounter: Raw = _ABSENT
    device: Raw = _ABSENT
    effectiveDateTime: str | None = None
    effectiveInstant: str | None = None
    effectivePeriod: Raw = _ABSENT
    issued: str | None = None
    component: list[Component] | None = None
    implicitRules: str | None = None


RESOURCES = frozenset(
    "Account ActivityDefinition AdverseEvent AllergyIntolerance Appointment AppointmentResponse AuditEvent Basic "
    "Binary "
    "BiologicallyDerivedProduct BodyStructure CapabilityStatement CarePlan CareTeam CatalogEntry ChargeItem "
    "ChargeItemDefinition Claim ClaimResponse ClinicalImpression CodeSystem Communication CommunicationRequest "
    "CompartmentDefinition Composition ConceptMap Condition Consent Contract Coverage CoverageEligibilityRequest "
    "CoverageEligibilityResponse DetectedIssue Device DeviceDefinition DeviceMetric DeviceRequest DeviceUseStatement "
    "DiagnosticReport DocumentManifest DocumentReference EffectEvidenceSynthesis Encounter Endpoint EnrollmentRequest "
    "EnrollmentResponse EpisodeOfCare EventDefinition Evidence EvidenceVariable ExampleScenario ExplanationOfBenefit "
    "FamilyMemberHistory Flag Goal GraphDefinition Group GuidanceResponse HealthcareService ImagingStudy Immunization "
    "ImmunizationEvaluation ImmunizationRecommendation ImplementationGuide InsurancePlan Invoice Library Linkage List "
    "Location Measure MeasureReport Media Medication MedicationAdministration MedicationDispense MedicationKnowledge "
    "MedicationRequest MedicationStatement MedicinalProduct MedicinalProductAuthorization "
    "MedicinalProductContraindication MedicinalProductIndication MedicinalProductIngredient "
    "MedicinalProductInteraction MedicinalProductManufactured MedicinalProductPackaged "
    "MedicinalProductPharmaceutical MedicinalProductUndesirableEffect MessageDefinition MessageHeader "
    "MolecularSequence NamingSystem NutritionOrder Observation ObservationDefinition OperationDefinition "
    "OperationOutcome Organization OrganizationAffiliation Patient PaymentNotice PaymentReconciliation Person "
    "PlanDefinition Practitioner PractitionerRole Procedure Provenance Questionnaire QuestionnaireResponse "
    "RelatedPerson RequestGroup ResearchDefinition ResearchElementDefinition ResearchStudy ResearchSubject "
    "RiskAssessment RiskEvidenceSynthesis Schedule SearchParameter ServiceRequest Slot Specimen SpecimenDefinition "
    "StructureDefinition StructureMap Subscription Substance SubstanceNucleicAcid SubstancePolymer SubstanceProtein "
    "SubstanceReferenceInformation SubstanceSourceMaterial SubstanceSpecification SupplyDelivery SupplyRequest Task "
    "TerminologyCapabilities TestReport TestScript ValueSet VerificationResult VisionPrescription".split()
)
"""All resources of R4 except Bundle and Parameters; in a Bundle those of other datasets are skipped unread."""


class SkippedResource(msgspec.Struct, gc=False):
    """A resource that holds nothing for the dataset; its elements are not parsed."""


def entry_types(*wanted: type[msgspec.Struct], among: frozenset[str] = RESOURCES) -> Any:
    """Return the union type of the wanted resources and of all others in ``among``, each a ``SkippedResource``.

    The default of ``among`` is what a Bundle may hold.
    """
    own = {kind.__struct_config__.tag for kind in wanted}
    return Union[(*wanted, *map(_skipped, sorted(among - own)))]


@cache
def _skipped(name: str) -> type[msgspec.Struct]:
    """Return the type of a resource that is skipped; msgspec reads each type once, whichever decoders have it."""
    return msgspec.defstruct(name, (), bases=(SkippedResource,), tag_field="resourceType", tag=name, gc=False)


InBundle = entry_types(Observation)


class Entry(msgspec.Struct, gc=False):
    """One resource of a Bundle."""

    resource: InBundle  # type: ignore[valid-type]
    modifierExtension: Raw = _ABSENT


_OF_DATASETS = frozenset({"Observation", "Patient", "Encounter", "Condition", "Device", "DeviceUseStatement"})
"""Resources from which this format's code makes rows of the project's own datasets."""


def resources_of_datasets() -> frozenset[str]:
    """Return the resources from which the rows of some dataset are made."""
    declared = (load_dataset(name).fhir for name in published_datasets())
    return _OF_DATASETS | {fhir.resource for fhir in declared if fhir is not None}


def with_skipped(*own: type[msgspec.Struct]) -> Any:
    """Return the union type of these resources and, as ``SkippedResource``, of those that other datasets are made of.

    Several jobs may read one topic: a resource for another dataset is skipped there, and is no dead letter.
    """
    return entry_types(*own, among=resources_of_datasets())


class Bundle(msgspec.Struct, gc=False, tag_field="resourceType", tag="Bundle"):
    """Several resources in one message, with or without Observations."""

    entry: list[Entry] = []
    implicitRules: str | None = None
