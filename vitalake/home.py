"""A home: its settings, its keys and its lake."""

from __future__ import annotations

from dataclasses import dataclass

from vitalake.keys import KeyRing, load_keys
from vitalake.lake.commits.lake import Lake
from vitalake.settings import Settings


@dataclass(frozen=True, slots=True)
class Home:
    """A home; it keeps nothing open.

    Attributes:
        settings: the settings of the home.
    """

    settings: Settings

    @property
    def keys(self) -> KeyRing:
        """The keys; the key file is read at every call.

        Raises:
            PrivacyError: the key file is missing, readable by others, not a key file, or lacks a key.
        """
        return load_keys(self.settings.path(self.settings.keys))

    def lake(self, dataset: str = "observation") -> Lake:
        """Open the lake, with the tables that a dataset's spans are added to; a lake that does not exist is not made.

        Raises:
            SettingsError: there is no such dataset.
            ServiceUnavailable: storage cannot be reached.
        """
        return Lake(self.settings.lake_uri, self.settings.storage_options, dataset=dataset)
