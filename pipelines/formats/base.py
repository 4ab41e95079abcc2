"""What a format is: a decoder for those who are strict, and a lenient reader for erasures.

Built-in formats and those of other packages are the same thing: a ``FormatKind`` in a module of its own, and a line
under ``vitalake.formats`` in the entry points of the package. docs/how-to/write-a-format.md shows one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pipelines.formats.shared.about import About
from pipelines.formats.shared.named import Named
from pipelines.formats.shared.result import Decoder
from vitalake.lake.datasets.dataset import Dataset
from vitalake.settings import Settings, StreamSettings

WAREHOUSE = "sql"
"""The format of polls that a warehouse's rows come in, and of those among the dead letters; no topic has it."""


class Lenient:
    """Reads messages that were refused, and may be half broken; this one adds nothing to the general reader.

    The general reader (pipelines/formats/lenient) reads every message as JSON, FHIR among it, or as HL7 v2, whatever
    the format of its topic. What a format says here is added to that. Ids must be composed as the format's decoder
    composes them: an erasure finds a message by the ids that its rows would have.
    """

    def whose(self, payload: bytes) -> Named | None:
        """Return whom a message names; None: it cannot be taken apart by this format, or need not be."""
        return None

    def stays(self, payload: bytes) -> set[str]:
        """Return the ids of stays that a message names; asked of messages that name no patient."""
        return set()

    def devices(self, payload: bytes) -> set[str]:
        """Return the ids of devices and beds that a message names; as for stays."""
        return set()

    def about(self, payload: bytes) -> About | None:
        """Return what a message may have measured; None: the general reader is asked."""
        return None


MakeDecoder = Callable[[str, Dataset, StreamSettings, Settings], Decoder | None]
"""Profile (empty: none), dataset, stream and settings → the decoder; None: the format has no rows for this dataset."""

MakeLenient = Callable[[str, Settings], Lenient]
"""Profile and settings → the lenient reader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatKind:
    """A format as it is registered.

    Importing its module must be cheap: what decodes is imported by ``decoder``.

    Attributes:
        name: as settings name it. Its decoders' names are this, or begin with it and a ``-``; behind it comes ``:`` and
            the profile.
        description: what its messages are, in words, for docs/reference/formats.md.
        profile: whether ``<name>:<profile>`` is written in the settings.
        decoder: makes its decoder for a dataset. Raises SettingsError where a profile is missing or not valid.
        lenient: makes what reads its messages for erasures. May raise SettingsError as well: then only the general
            reader reads them.
    """

    name: str
    description: str
    profile: Literal["none", "optional", "required"] = "none"
    decoder: MakeDecoder
    lenient: MakeLenient = lambda _profile, _settings: Lenient()
