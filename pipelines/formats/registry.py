"""Finds the formats that installed packages register as entry points of the group ``vitalake.formats``.

A format is imported when settings name it, so a stream imports only the formats that it uses.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint

from pipelines.formats.base import WAREHOUSE, FormatKind
from pipelines.formats.shared.fenced import FencedDecoder
from pipelines.formats.shared.result import Decoder
from vitalake import plugins
from vitalake.errors import SettingsError
from vitalake.lake.datasets.declared import load_dataset
from vitalake.settings import Settings, StreamSettings

GROUP = "vitalake.formats"

OURS = ("fhir", "flat", "hl7-v2")
"""Formats that every installation has."""


def registered() -> dict[str, EntryPoint]:
    """Return the entry point of every registered format by name, without importing it.

    Raises:
        SettingsError: two formats have one name, or a name could be a decoder's of a built-in format (``hl7-v2-…``).
    """
    entries = plugins.registered(GROUP)
    for name, entry in entries.items():
        if name == WAREHOUSE or (name not in OURS and name.startswith(tuple(f"{ours}-" for ours in OURS))):
            raise plugins.unusable(entry, "has a name that is reserved for built-in formats")
    return entries


@cache
def format_kind(name: str) -> FormatKind:
    """Return a format by its name, without a profile.

    Raises:
        SettingsError: no format of this name is registered, it cannot be loaded, it is not a FormatKind, or its name
            differs from its entry point's.
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
        raise plugins.unusable(entries[name], "is not a FormatKind")
    if kind.name != name:
        raise plugins.unusable(entries[name], "has another name than its entry point")
    return kind


def split_name(name: str) -> tuple[str, str]:
    """Split a format name of the settings into format and profile; the profile is empty if none is named."""
    kind, _, profile = name.partition(":")
    return kind, profile


def kind_of(name: str) -> FormatKind:
    """Return the format of a name in the settings, or of a decoder's longer name such as ``hl7-v2-adt:hl7``.

    Raises:
        SettingsError: as format_kind.
    """
    kind, _ = split_name(name)
    prefixes = [known for known in registered() if kind.startswith(f"{known}-")]
    return format_kind(kind if kind in registered() else max(prefixes, key=len, default=kind))


def make_decoder(name: str, *, dataset: str, stream: StreamSettings, settings: Settings) -> Decoder:
    """Return the decoder of a format for a dataset; that of another package is fenced, because it can have any fault.

    Args:
        name: as in the settings: ``<format>`` or ``<format>:<profile>``.
        dataset: the dataset that the rows are for.
        stream: has the limit of a message's length.
        settings: have the folder of the home's profiles.

    Raises:
        SettingsError: no such format is registered, it has no rows for this dataset, or its profile is not valid.
    """
    format_name, profile = split_name(name)
    kind = format_kind(format_name)
    if profile and kind.profile == "none":
        raise SettingsError("Format has no profiles", where=name, remedy=f"Write {format_name} alone.")
    if not profile and kind.profile == "required":
        raise SettingsError("Format needs a profile", where=name, remedy=f"Write {format_name}:<profile>.")
    declared = load_dataset(dataset)
    decoder = kind.decoder(profile, declared, stream, settings)
    if decoder is None:
        raise SettingsError(
            "Format has no rows for this dataset",
            where=f"{name}: {dataset}",
            remedy="Choose a dataset that the format fills; docs/how-to/formats.md lists them.",
        )
    return decoder if format_name in OURS else FencedDecoder(decoder, declared, format_name)
