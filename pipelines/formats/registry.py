"""Which decoder reads a topic: one for each format and dataset."""

from __future__ import annotations

from pipelines.formats.shared.result import Decoder
from vitalake.errors import SettingsError
from vitalake.lake.datasets.dataset import ASSOCIATION, MEASUREMENT, Dataset
from vitalake.lake.datasets.declared import load_dataset
from vitalake.settings import Settings, StreamSettings


def make_decoder(name: str, *, dataset: str, stream: StreamSettings, settings: Settings) -> Decoder:
    """Return the decoder of a format for a dataset: the place where further formats are added.

    Args:
        name: ``fhir``, ``hl7-v2``, ``hl7-v2:<profile>`` or ``flat:<profile>``.
        dataset: where the rows go.
        stream: how long a message may be.
        settings: where the home's profiles are.

    Raises:
        SettingsError: the format has nothing for this dataset, or its profile does not hold.
    """
    kind, _, profile = name.partition(":")
    declared = load_dataset(dataset)
    if kind == "fhir" and declared.measures:
        from pipelines.formats.fhir.observations import FhirDecoder

        return FhirDecoder(max_message_bytes=stream.max_message_bytes)
    if kind == "fhir" and declared.fhir:
        from pipelines.formats.fhir.declared import FhirDeclaredDecoder

        return FhirDeclaredDecoder(declared, max_message_bytes=stream.max_message_bytes)
    if kind == "fhir":
        from pipelines.formats.fhir.record_structs import WANTED
        from pipelines.formats.fhir.records import FhirRecordDecoder

        if dataset in WANTED:
            return FhirRecordDecoder(dataset, max_message_bytes=stream.max_message_bytes)
    if kind == "flat" and declared.measures:
        from pipelines.formats.flat.decoder import FlatDecoder
        from pipelines.formats.flat.profile import FlatProfile, load_profile

        return FlatDecoder(load_profile(FlatProfile, profile, settings), max_message_bytes=stream.max_message_bytes)
    if kind == "hl7-v2" and declared.kind in (MEASUREMENT, ASSOCIATION):
        return _hl7(profile, declared, stream, settings)
    raise SettingsError(
        "Format has no rows for this dataset",
        where=f"{name}: {dataset}",
        remedy="See docs/how-to/formats.md for what each format can fill.",
    )


def _hl7(name: str, dataset: Dataset, stream: StreamSettings, settings: Settings) -> Decoder:
    try:
        from pipelines.formats.hl7.adt import AdtDecoder
        from pipelines.formats.hl7.observations import Hl7Decoder
    except ImportError:
        raise SettingsError(
            "python-hl7 is not installed", where="format hl7-v2", remedy="In the checkout run: pip install '.[hl7]'."
        ) from None
    from pipelines.formats.flat.profile import load_profile
    from pipelines.formats.hl7.profile import Hl7Profile

    profile = load_profile(Hl7Profile, name or "hl7", settings)
    decoder = Hl7Decoder if dataset.measures else AdtDecoder
    return decoder(profile, max_message_bytes=stream.max_message_bytes)
