"""Checks that a home belongs to its lake: that its keys and its vault are those that the lake was written with."""

from governance.belonging.opening import admit, introduce, open_vault
from governance.belonging.status import Belonging, examine_belonging, refuse_restored_lake, repair_erasure_records

__all__ = [
    "Belonging",
    "admit",
    "examine_belonging",
    "introduce",
    "open_vault",
    "refuse_restored_lake",
    "repair_erasure_records",
]
