"""From the settings to a key service."""

from __future__ import annotations

from vitalake.keyservice.local import LocalKeyService
from vitalake.keyservice.service import KeyService
from vitalake.settings import Settings


def open_key_service(settings: Settings) -> KeyService:
    """Return the home's key service. Nothing is asked of it yet.

    Raises:
        SettingsError: the service of that kind is not installed, or lacks a setting.
    """
    return LocalKeyService(settings.path(settings.key_service.path))
