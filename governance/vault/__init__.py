"""The vault: each patient's key, and who is behind a pseudonym."""

from governance.vault.records import Hold, Identity, PatientKey, PendingErasure, Tombstone
from governance.vault.vault import Vault

__all__ = ["Hold", "Identity", "PatientKey", "PendingErasure", "Tombstone", "Vault"]
