"""Seals the values of stores beside the lake with a key of the vault, so that revoking that key stops them too."""

from __future__ import annotations

from governance.vault import Vault
from vitalake.keys import Key
from vitalake.sealing import Sealer


class StoreSealer:
    """AES-256-GCM under the lease of the vault's keys; used by the vault's thread.

    Values that an earlier release sealed with a key of the key file are opened too, under the same lease. They expire:
    a online store keeps two days, a book of scores a month.
    """

    def __init__(self, vault: Vault, name: str, former: Key, *, owned: bool = False) -> None:
        """Prepare; no key is asked for yet.

        Args:
            vault: opened.
            name: of the store's key in the vault.
            former: the key of the key file with which an earlier release sealed.
            owned: whether closing this also closes the vault.
        """
        self._vault, self._name, self._owned = vault, name, owned
        self._former = Sealer(former)
        self._secret, self._sealer = b"", self._former

    def hold(self) -> None:
        """Make sure that the key may be used now.

        Raises:
            KeyRevoked: the key service has taken it away; the key is dropped from memory.
            ServiceUnavailable: the key service does not answer.
        """
        self._leased()

    def close(self) -> None:
        """Drop the key from memory."""
        self._secret, self._sealer = b"", self._former
        if self._owned:
            self._vault.close()

    def seal(self, plain: bytes, *, context: bytes) -> bytes:
        """Return the value encrypted; see Sealer."""
        return self._leased().seal(plain, context=context)

    def open(self, sealed: bytes, *, context: bytes) -> bytes:
        """Return the value that was sealed for this place; see Sealer."""
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
