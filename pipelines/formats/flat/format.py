"""Registers the format ``flat``: devices' own JSON, by a profile."""

from __future__ import annotations

from pipelines.formats.base import FormatKind, Lenient
from pipelines.formats.shared.result import Decoder
from vitalake.lake.datasets.dataset import Dataset
from vitalake.settings import Settings, StreamSettings


def _decoder(profile: str, dataset: Dataset, stream: StreamSettings, settings: Settings) -> Decoder | None:
    if not dataset.measures:
        return None
    from pipelines.formats.flat.decoder import FlatDecoder
    from pipelines.formats.flat.profile import FlatProfile, load_profile

    return FlatDecoder(load_profile(FlatProfile, profile, settings), max_message_bytes=stream.max_message_bytes)


def _lenient(profile: str, settings: Settings) -> Lenient:
    from pipelines.formats.flat.lenient import FlatLenient
    from pipelines.formats.flat.profile import FlatProfile, load_profile

    return FlatLenient(load_profile(FlatProfile, profile, settings))


FORMAT = FormatKind(
    name="flat",
    description="a device's own JSON, by a profile that says what stands where",
    profile="required",
    decoder=_decoder,
    lenient=_lenient,
)
