"""Which formats there are: those that installed packages register as entry points of the group ``vitalake.formats``.

A format is loaded when a name asks for it: a stream imports no other.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint

from pipelines.formats.base import WAREHOUSE, FormatKind
from pipelines.formats.shared.result import Decoder
from vitalake import plugins
from vitalake.errors import SettingsError
from vitalake.lake.datasets.declared import load_dataset
from vitalake.settings import Settings, StreamSettings

GROUP = "vitalake.formats"

OURS = ("fhir", "flat", "hl7-v2")
"""Formats that every installation has."""


def registered() -> dict[str, EntryPoint]:
    """Return every format that is registered, by name; nothing is imported.

    Raises:
        SettingsError: two have one name, or one has a name that dead letters of another have.
    """
    found = plugins.registered(GROUP)
    for name, entry in found.items():
        if name == WAREHOUSE or (name not in OURS and name.startswith(tuple(f"{ours}-" for ours in OURS))):
            raise plugins.unusable(entry, "has a name that decoders of ours have")
    return found


@cache
def format_kind(name: str) -> FormatKind:
    """Return a format by its name, without a profile.

    Raises:
        SettingsError: none is registered by this name, or it cannot be loaded, is none or has another name than its
            entry point.
    """
    entries = registered()
    if name not in entries:
        raise SettingsError(
            "Format is not registered",
            where=name,
            remedy=f"The formats are: {', '.join(entries)}. Correct the topic's format, or install its package.",
        )
    kind = plugins.load(entries[name])
    if not isinstance(kind, FormatKind):
        raise plugins.unusable(entries[name], "is no FormatKind")
    if kind.name != name:
        raise plugins.unusable(entries[name], "has another name than its entry point")
    return kind


def split_name(name: str) -> tuple[str, str]:
    """Return format and profile of what settings write; the profile is empty where none is named."""
    kind, _, profile = name.partition(":")
    return kind, profile


def kind_of(name: str) -> FormatKind:
    """Return the format of what settings write, or of a decoder's name, which may say more: ``hl7-v2-adt:hl7``.

    Raises:
        SettingsError: as format_kind.
    """
    said, _ = split_name(name)
    longer = [known for known in registered() if said.startswith(f"{known}-")]
    return format_kind(said if said in registered() else max(longer, key=len, default=said))


def make_decoder(name: str, *, dataset: str, stream: StreamSettings, settings: Settings) -> Decoder:
    """Return the decoder of a format for a dataset.

    Args:
        name: as settings write it: ``<format>`` or ``<format>:<profile>``.
        dataset: where the rows go.
        stream: how long a message may be.
        settings: where the home's profiles are.

    Raises:
        SettingsError: no such format is registered, it has nothing for this dataset, or its profile does not hold.
    """
    said, profile = split_name(name)
    kind = format_kind(said)
    if profile and kind.profile == "none":
        raise SettingsError("Format has no profiles", where=name, remedy=f"Write {said} alone.")
    if not profile and kind.profile == "required":
        raise SettingsError("Format needs a profile", where=name, remedy=f"Write {said}:<profile>.")
    decoder = kind.decoder(profile, load_dataset(dataset), stream, settings)
    if decoder is None:
        raise SettingsError(
            "Format has no rows for this dataset",
            where=f"{name}: {dataset}",
            remedy="See docs/how-to/formats.md for what each format can fill.",
        )
    return decoder
