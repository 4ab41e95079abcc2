"""The vault: each patient's key, and who is behind a pseudonym."""

from vitalake.vault.records import Hold, Identity, PatientKey, PendingErasure, Tombstone
from vitalake.vault.vault import Vault

__all__ = ["Hold", "Identity", "PatientKey", "PendingErasure", "Tombstone", "Vault"]
