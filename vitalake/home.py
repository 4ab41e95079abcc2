"""A home: its settings, and what they lead to."""

from __future__ import annotations

from dataclasses import dataclass

from vitalake.keys import KeyRing, load_keys
from vitalake.lake.commits.lake import Lake
from vitalake.settings import Settings


@dataclass(frozen=True, slots=True)
class Home:
    """A home; nothing is kept open by it.

    Attributes:
        settings: the home's.
    """

    settings: Settings

    @property
    def keys(self) -> KeyRing:
        """The keys, as they are now.

        Raises:
            PrivacyError: the key file is missing, readable by others, not a key file, or lacks a key.
        """
        return load_keys(self.settings.path(self.settings.keys))

    def lake(self, dataset: str = "observation") -> Lake:
        """Return the lake, opened afresh, with the tables into which a dataset's spans go; no lake is made by it.

        Raises:
            SettingsError: there is no such dataset.
            ServiceUnavailable: storage cannot be reached.
        """
        return Lake(self.settings.lake_uri, self.settings.storage_options, dataset=dataset)
