"""The vault keeps each patient's key, and the identity behind each pseudonym."""

from governance.vault.records import Hold, Identity, PatientKey, PendingErasure, Tombstone
from governance.vault.vault import Vault

__all__ = ["Hold", "Identity", "PatientKey", "PendingErasure", "Tombstone", "Vault"]
