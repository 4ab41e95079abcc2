"""The events that the audit records, and the interface of its recorders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

Action = Literal[
    "risk.read",
    "score.write",
    "identity.read",
    "board.read",
    "page.read",
    "decision.write",
    "sql.query",
    "published.read",
    "identified.query",
    "audit.read",
    "audit.begin",
    "sign-in",
    "denied",
    "train",
    "models.approve",
    "models.withdraw",
    "dead-letters.replay",
    "dead-letters.discard",
    "devices.associate",
    "devices.identify",
    "patient.erase",
    "patient.hold",
    "patient.show",
    "keys.use",
    "keys.rotate",
    "keys.revoke",
    "keys.restore",
]
ACTIONS: tuple[Action, ...] = get_args(Action)

_NAME = re.compile(r"[a-z][a-z_]{0,31}")
_CODES = re.compile(r"[A-Za-z0-9 _.,:+/()-]{0,1000}")
_PSEUDONYM = re.compile(r"v\d+\.[a-z2-7]{32}")


def is_code(text: str) -> bool:
    """Return whether a text may stand in the detail of an event: short, of few signs, and no pseudonym."""
    return bool(_CODES.fullmatch(text)) and not _PSEUDONYM.search(text)


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Something that somebody did, or tried to do.

    Attributes:
        action: what they did.
        actor: who; a principal's subject.
        role: the role in which they did it.
        patients: the pseudonyms of the patients whose data it was; a recorder stores only keyed digests of them.
        detail: codes only, such as a dataset's name or a digest; never a value, a text or a patient.
    """

    action: Action
    actor: str
    role: str
    patients: tuple[str, ...] = ()
    detail: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the event contains codes only; if not, the caller has a bug. The error does not show the text."""
        fits = all(_NAME.fullmatch(name) and is_code(text) for name, text in self.detail.items())
        if self.action not in ACTIONS or not fits:
            raise ValueError("an audit event holds codes only")


class AuditSink(Protocol):
    """Records events."""

    def record(self, event: AuditEvent) -> None:
        """Record an event, durably before it returns.

        Raises:
            VitaLakeError: it is not recorded; the caller must then not do what it wanted to record.
        """
        ...


class BatchAuditSink(AuditSink, Protocol):
    """Records events in batches: a disk syncs a hundred records as fast as one."""

    def record_all(self, events: Sequence[AuditEvent]) -> None:
        """Record events, all durably before it returns.

        Raises:
            VitaLakeError: they are not recorded; the caller must then not do what it wanted to record.
        """
        ...
