"""Everything that identifies a patient who is to be erased, in rows, in messages and in stores."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ErasedPerson:
    """A patient who is to be erased; the vault keeps this, sealed, until the erasure is finished.

    Attributes:
        ids: as sources write them: first the patient's id, then the record numbers, earlier ones included.
        tokens: pseudonyms under every version of the key.
        reason: in the officer's words.
        actor: the account that asked for the erasure.
        begun_at: ISO.
        together: the patient's other numbers that are erased with this one: id → certificate.
        stays: ids of the patient's stays, as sources write them.
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
        """SHA-256 of each pseudonym, hex, as certificates keep them."""
        return tuple(hashlib.sha256(token.encode()).hexdigest() for token in self.tokens)

    def packed(self) -> list[str]:
        """Return the fields as lines of text, the form in which the vault keeps them."""
        return [
            f"reason {self.reason}", f"actor {self.actor}", f"begun {self.begun_at}",
            *(f"id {text}" for text in self.ids), *(f"token {text}" for text in self.tokens),
            *(f"with {certificate} {patient}" for patient, certificate in self.together.items()),
            *(f"stay {text}" for text in self.stays),
        ]  # fmt: skip

    @classmethod
    def unpacked(cls, texts: Iterable[str]) -> ErasedPerson:
        """Return the person that ``packed`` turned into lines."""
        parts = [text.partition(" ")[::2] for text in texts]
        of = {kind: tuple(text for name, text in parts if name == kind) for kind in ("id", "token", "with", "stay")}
        one = dict(parts)
        together = {patient: certificate for certificate, _, patient in (text.partition(" ") for text in of["with"])}
        return cls(of["id"], of["token"], one["reason"], one["actor"], one["begun"], together, of["stay"])
