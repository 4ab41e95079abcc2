"""Registers the format ``fhir``."""

from __future__ import annotations

from pipelines.formats.base import FormatKind
from pipelines.formats.shared.result import Decoder
from vitalake.lake.datasets.dataset import Dataset
from vitalake.settings import Settings, StreamSettings


def _decoder(_profile: str, dataset: Dataset, stream: StreamSettings, _settings: Settings) -> Decoder | None:
    if dataset.measures:
        from pipelines.formats.fhir.observations import FhirDecoder

        return FhirDecoder(max_message_bytes=stream.max_message_bytes)
    if dataset.fhir:
        from pipelines.formats.fhir.declared import FhirDeclaredDecoder

        return FhirDeclaredDecoder(dataset, max_message_bytes=stream.max_message_bytes)
    from pipelines.formats.fhir.record_structs import DATASET_RESOURCES
    from pipelines.formats.fhir.records import FhirRecordDecoder

    if dataset.name not in DATASET_RESOURCES:
        return None
    return FhirRecordDecoder(dataset.name, max_message_bytes=stream.max_message_bytes)


def _check(dataset: Dataset) -> None:
    from pipelines.formats.fhir.declared import check_declared

    check_declared(dataset)


FORMAT = FormatKind(
    name="fhir",
    description="FHIR R4 JSON: one resource, or a Bundle of any",
    decoder=_decoder,
    check=_check,
)
"""It needs no lenient reader of its own: the general reader recognises FHIR in messages of all topics."""
