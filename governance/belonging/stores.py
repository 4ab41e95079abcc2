"""Seals what stores beside the lake hold, by a key of the vault: whoever revokes the wrapping key stops them too."""

from __future__ import annotations

from governance.vault import Vault
from vitalake.keys import Key
from vitalake.sealing import Sealer


class StoreSealer:
    """AES-256-GCM under the lease of the vault's keys; used by the vault's thread.

    What an earlier release has sealed with a key of the key file is opened as well, under the same lease; it goes with
    time: a care store keeps two days, a book of scores a month.
    """

    def __init__(self, vault: Vault, name: str, former: Key, *, owned: bool = False) -> None:
        """Prepare; no key is asked for yet.

        Args:
            vault: opened.
            name: of the store's key in the vault.
            former: of the key file, which an earlier release sealed with.
            owned: close the vault with the store.
        """
        self._vault, self._name, self._owned = vault, name, owned
        self._former = Sealer(former)
        self._secret, self._sealer = b"", self._former

    def hold(self) -> None:
        """Make sure that the key may be used now.

        Raises:
            KeyRevoked: it may not; nothing of it stays here.
            ServiceUnavailable: nobody can say.
        """
        self._leased()

    def close(self) -> None:
        """Forget the key."""
        self._secret, self._sealer = b"", self._former
        if self._owned:
            self._vault.close()

    def seal(self, plain: bytes, *, context: bytes) -> bytes:
        """Return the value encrypted; see Sealer."""
        return self._leased().seal(plain, context=context)

    def open(self, sealed: bytes, *, context: bytes) -> bytes:
        """Return the value of what was sealed at this place; see Sealer."""
        opened = self._leased().try_open(sealed, context=context)
        return self._former.open(sealed, context=context) if opened is None else opened

    def _leased(self) -> Sealer:
        try:
            secret = self._vault.store_secret(self._name)
        except BaseException:
            self._secret, self._sealer = b"", self._former
            raise
        if secret is not self._secret:
            self._secret, self._sealer = secret, Sealer(Key(self._name, "vault", secret))
        return self._sealer
