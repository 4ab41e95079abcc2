"""What is wrong with a ward, in words for who stands before a board, and as codes for who looks after the server."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from vitalake.errors import PrivacyError, VitaLakeError


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong.

    Attributes:
        code: for programs.
        text: a sentence or two; of no patient.
        failing: what is shown is not what is known, or may be old; otherwise something is missing beside it.
    """

    code: str
    text: str
    failing: bool = True


def of_error(error: VitaLakeError | sqlite3.Error) -> Trouble:
    """Return the trouble that an error of the watcher is; where and remedy are for the log."""
    if isinstance(error, PrivacyError):
        return Trouble("locked", f"{error.what}. Nothing of any patient is shown until that is put right.")
    if isinstance(error, VitaLakeError):
        code = "".join(f"-{c.lower()}" if c.isupper() else c for c in type(error).__name__).strip("-")
        return Trouble(code, f"{error.what}. What is shown is not updated.")
    return Trouble("store-refuses", f"The care store cannot be read ({type(error).__name__}). What is shown is old.")
