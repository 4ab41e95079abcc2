"""What is known of a patient who is to be forgotten: all the names that rows, letters and stores may have."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ErasedPerson:
    """What is known of a patient who is to be forgotten; kept sealed in the vault until it is done.

    Attributes:
        ids: as sources write them: the patient's id, the record numbers, also earlier ones.
        tokens: pseudonyms, of every version of the key.
        reason: in the officer's words.
        actor: who asked for it.
        begun_at: ISO.
        together: of the patient's other numbers: id → certificate.
        stays: as sources write them.
    """

    ids: tuple[str, ...] = field(repr=False)
    tokens: tuple[str, ...] = field(repr=False)
    reason: str
    actor: str
    begun_at: str
    together: Mapping[str, str] = field(repr=False, default_factory=dict)
    stays: tuple[str, ...] = field(repr=False, default=())

    @property
    def digests(self) -> tuple[str, ...]:
        """The pseudonyms as certificates have them."""
        return tuple(hashlib.sha256(token.encode()).hexdigest() for token in self.tokens)

    def packed(self) -> list[str]:
        """Return it as the vault keeps it."""
        return [
            f"reason {self.reason}", f"actor {self.actor}", f"begun {self.begun_at}",
            *(f"id {text}" for text in self.ids), *(f"token {text}" for text in self.tokens),
            *(f"with {certificate} {patient}" for patient, certificate in self.together.items()),
            *(f"stay {text}" for text in self.stays),
        ]  # fmt: skip

    @classmethod
    def unpacked(cls, texts: Iterable[str]) -> ErasedPerson:
        """Return what ``packed`` made."""
        parts = [text.partition(" ")[::2] for text in texts]
        of = {kind: tuple(text for name, text in parts if name == kind) for kind in ("id", "token", "with", "stay")}
        one = dict(parts)
        together = {patient: certificate for certificate, _, patient in (text.partition(" ") for text in of["with"])}
        return cls(of["id"], of["token"], one["reason"], one["actor"], one["begun"], together, of["stay"])
