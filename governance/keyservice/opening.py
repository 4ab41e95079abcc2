"""Opens the key service that the settings name."""

from __future__ import annotations

from governance.keyservice.local import LocalKeyService
from governance.keyservice.moving import MovingKeyService
from governance.keyservice.service import KeyService
from vitalake.errors import SettingsError
from vitalake.settings import Settings, resolve_references


def open_key_service(settings: Settings) -> KeyService:
    """Return the home's key service, without asking it anything.

    If there are both a local file and a KMS key, the service that is not chosen still unwraps what it wrapped.

    Raises:
        SettingsError: the service of that kind is not installed, or lacks a setting.
    """
    chosen = settings.key_service
    path = settings.path(chosen.path)
    local = LocalKeyService(path)
    if chosen.kind == "local":
        return local if chosen.key is None else MovingKeyService(local, _kms(settings))
    return MovingKeyService(_kms(settings), local) if path.exists() else _kms(settings)


def _kms(settings: Settings) -> KeyService:
    chosen = settings.key_service
    if chosen.key is None:
        raise SettingsError(
            "Key service lacks its key",
            where="settings.key_service.key",
            remedy="Set the id, ARN or alias of a KMS key.",
        )
    try:
        from governance.keyservice.kms import KmsKeyService
    except ImportError:
        raise SettingsError(
            "Key service is not installed", where="package boto3", remedy="In the checkout run: pip install '.[aws]'."
        ) from None
    return KmsKeyService(
        chosen.key,
        region=chosen.region,
        endpoint=chosen.endpoint,
        options=resolve_references(chosen.options, home=settings.home),
    )
