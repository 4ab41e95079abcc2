"""Registers the format ``hl7-v2``."""

from __future__ import annotations

from pipelines.formats.base import FormatKind, Lenient
from pipelines.formats.shared.result import Decoder
from vitalake.errors import SettingsError
from vitalake.lake.datasets.dataset import ASSOCIATION, MEASUREMENT, Dataset
from vitalake.settings import Settings, StreamSettings

SHIPPED = "hl7"
"""The profile that is used if the settings name none."""


def _decoder(profile: str, dataset: Dataset, stream: StreamSettings, settings: Settings) -> Decoder | None:
    if dataset.kind not in (MEASUREMENT, ASSOCIATION):
        return None
    try:
        from pipelines.formats.hl7.adt import AdtDecoder
        from pipelines.formats.hl7.observations import Hl7Decoder
    except ImportError:
        raise SettingsError(
            "python-hl7 is not installed", where="format hl7-v2", remedy="In the checkout run: pip install '.[hl7]'."
        ) from None
    from pipelines.formats.flat.profile import load_profile
    from pipelines.formats.hl7.profile import Hl7Profile

    loaded = load_profile(Hl7Profile, profile or SHIPPED, settings)
    decoder = Hl7Decoder if dataset.measures else AdtDecoder
    return decoder(loaded, max_message_bytes=stream.max_message_bytes)


def _lenient(profile: str, settings: Settings) -> Lenient:
    from pipelines.formats.flat.profile import load_profile
    from pipelines.formats.hl7.lenient import Hl7Lenient
    from pipelines.formats.hl7.profile import Hl7Profile

    return Hl7Lenient(load_profile(Hl7Profile, profile or SHIPPED, settings))


FORMAT = FormatKind(
    name="hl7-v2",
    description="HL7 v2 `ORU^R01` and `ADT`",
    profile="optional",
    decoder=_decoder,
    lenient=_lenient,
)
