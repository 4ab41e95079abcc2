"""Key services: who wraps the vault's keys, and can take them away from everybody at once."""

from vitalake.keyservice.opening import open_key_service
from vitalake.keyservice.service import KeyRevoked, KeyService, KeyVersion, Wrapped

__all__ = ["KeyRevoked", "KeyService", "KeyVersion", "Wrapped", "open_key_service"]
