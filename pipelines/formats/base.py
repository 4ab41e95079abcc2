"""What a format consists of: a strict decoder for the lanes, and a lenient reader for erasures.

Built-in formats and those of other packages are built alike: a ``FormatKind`` in a module, and a line under
``vitalake.formats`` in the entry points of the package. docs/how-to/write-a-format.md shows an example.
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
"""Format name of polls that hold a warehouse's rows, and of their dead letters; no topic can have it."""


class Lenient:
    """Reads refused messages, which can be damaged; this base class adds nothing to the general reader.

    The general reader (pipelines/formats/lenient) reads every message as JSON (FHIR included) or as HL7 v2, whatever
    the format of its topic. What a subclass returns is added to that. Ids must be composed as the format's decoder
    composes them: an erasure finds a message by the ids that its rows would have.
    """

    def whose(self, payload: bytes) -> Named | None:
        """Return the patients that a message names; None: this format cannot parse it, or need not."""
        return None

    def stays(self, payload: bytes) -> set[str]:
        """Return the ids of the stays that a message names; called for messages that name no patient."""
        return set()

    def devices(self, payload: bytes) -> set[str]:
        """Return the ids of the devices and beds that a message names; called for messages that name no patient."""
        return set()

    def about(self, payload: bytes) -> About | None:
        """Return what a message may have measured; None: the general reader decides."""
        return None


MakeDecoder = Callable[[str, Dataset, StreamSettings, Settings], Decoder | None]
"""Takes profile (empty: none), dataset, stream and settings; returns the decoder, or None if the format has no rows for
this dataset."""

MakeLenient = Callable[[str, Settings], Lenient]
"""Takes profile and settings; returns the lenient reader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatKind:
    """A registered format.

    Importing its module must be cheap, so ``decoder`` imports the decoding code only when it is called.

    Attributes:
        name: the name in the settings. A decoder's name is this name, or begins with it and ``-``; ``:`` and the
            profile follow.
        description: what its messages are, in words, for docs/reference/formats.md.
        profile: whether the settings must or can name a profile, as ``<name>:<profile>``.
        decoder: makes the decoder for a dataset. Raises SettingsError if a profile is missing or not valid.
        check: raises SettingsError if what a dataset declares for this format is not valid; ``vitalake policy check``
            and ``doctor`` call that of ``fhir``.
        lenient: makes the reader for erasures. If it raises SettingsError, only the general reader reads the messages.
    """

    name: str
    description: str
    profile: Literal["none", "optional", "required"] = "none"
    decoder: MakeDecoder
    check: Callable[[Dataset], None] = lambda _dataset: None
    lenient: MakeLenient = lambda _profile, _settings: Lenient()
