"""Key services: they wrap the vault's keys, and can revoke them for everybody at once."""

from governance.keyservice.opening import open_key_service
from governance.keyservice.service import KeyRevoked, KeyService, KeyVersion, Wrapped

__all__ = ["KeyRevoked", "KeyService", "KeyVersion", "Wrapped", "open_key_service"]
