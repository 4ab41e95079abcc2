"""The vault: each patient's key, and who is behind a pseudonym."""

from vitalake.vault.opening import open_vault
from vitalake.vault.records import Identity, PatientKey
from vitalake.vault.vault import Vault

__all__ = ["Identity", "PatientKey", "Vault", "open_vault"]
