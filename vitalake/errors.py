"""The errors that all packages raise, and the exit codes that they give a command."""

from __future__ import annotations

from typing import ClassVar


class VitaLakeError(Exception):
    """An expected failure: says what happened, where, and what to do; it never shows a value of a patient.

    Instances pickle, because Beam moves errors between workers.

    Attributes:
        what: what happened, in one clause.
        where: topic[partition]@offset, table@version, a FHIR path, a rule id or a setting's name.
        remedy: what the reader can do about it.
        exit_code: exit code of the command.
        transient: whether trying again can help.
        correctable: whether a person can correct it while the process waits: a setting, a rule, a file's permissions.
            An error that is neither transient nor correctable is permanent, and ends the process.
    """

    exit_code: ClassVar[int] = 1
    transient: ClassVar[bool] = False
    correctable: ClassVar[bool] = False

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what, where, remedy)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        """Return ``what: where. remedy`` on one line."""
        head = f"{self.what}: {self.where}." if self.where else f"{self.what}."
        return f"{head} {self.remedy}".strip()

    def __reduce__(self) -> tuple[object, ...]:
        """Rebuild from the three parts: keyword-only arguments do not survive the default protocol."""
        return (_rebuild, (type(self), self.what, self.where, self.remedy))


def _rebuild(kind: type[VitaLakeError], what: str, where: str, remedy: str) -> VitaLakeError:
    return kind(what, where=where, remedy=remedy)


class SettingsError(VitaLakeError):
    """A setting is missing, unknown or contradicts another."""

    exit_code = 10
    correctable = True


class InputError(VitaLakeError):
    """Input or schema does not fit: a topic, a file, a table made by something else."""

    exit_code = 11


class PrivacyError(VitaLakeError):
    """A rule, key or permission stands in the way: the default is closed."""

    exit_code = 12


class OutOfReach(PrivacyError):
    """A private file is open to other accounts, or cannot be read: setting its permissions corrects that."""

    correctable = True


class LakeError(VitaLakeError):
    """The lake refuses, or would no longer be consistent."""

    exit_code = 13


class ServiceUnavailable(VitaLakeError):
    """A service cannot be reached, or a resource (disk, memory) is used up; trying again can help."""

    exit_code = 14
    transient = True


class ModelError(VitaLakeError):
    """A model cannot be trained, loaded or used."""

    exit_code = 15
