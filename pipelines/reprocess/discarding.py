"""Giving messages up: with words why, on record, and for good."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from governance.access import Principal
from governance.audit import AuditEvent, AuditSink
from governance.belonging import admit
from governance.erasure.reasons import refuse_naming_if_known
from pipelines.core.open_letters import (
    ATTEMPTS,
    DEAD_LETTER,
    Choice,
    LettersMoved,
    Source,
    census,
    open_places,
    resolved,
)
from pipelines.reprocess.origins import lineages
from pipelines.reprocess.redecoding import resolution_rows
from pipelines.reprocess.writing import ReprocessWriter
from vitalake.errors import InputError
from vitalake.home import Home
from vitalake.lake.commits.spans import SpanConflict
from vitalake.settings import Settings

MOST_WORDS = 500
"""Letters of a reason: a sentence or two, and a number of a ticket."""

_PSEUDONYM = re.compile(r"v\d+\.[a-z2-7]{32}")


def checked_words(words: str) -> str:
    """Return the words of a reason, trimmed.

    Raises:
        InputError: there are none, they are too long, or hold what is no text.
    """
    trimmed = words.strip()
    if not trimmed or not any(letter.isalpha() for letter in trimmed):
        raise InputError("A reason is needed", where="--reason-text", remedy="Say in words why they are given up.")
    if _PSEUDONYM.search(trimmed):
        raise InputError("Reason names a patient", where="--reason-text", remedy="Say it without the pseudonym.")
    if len(trimmed) > MOST_WORDS or any(unicodedata.category(letter)[0] == "C" for letter in trimmed):
        raise InputError(
            "Reason is not one line of text", where="--reason-text", remedy=f"At most {MOST_WORDS} letters, one line."
        )
    return trimmed


def discard(settings: Settings, choice: Choice, *, words: str, principal: Principal, audit: AuditSink) -> int:
    """Give open dead letters up; return how many. They are never replayed again, and expire as others do.

    It is recorded before it is done, and so is that the words are refused. Nothing is opened, so that patients' keys
    need not be had. The audit keeps a digest of the words; they themselves stand beside the rows.

    Args:
        settings: of the home.
        choice: which of them.
        words: why; they name no patient.
        principal: who does it.
        audit: records it.

    Raises:
        InputError: the words are none, or name a patient.
        Overtaken: a replay has begun meanwhile; what was decided stays.
        VitaLakeError: it is not recorded, or the lake cannot be written.
    """
    words = checked_words(words)
    admit(settings)
    found = census(Home(settings).lake(), DEAD_LETTER, choice)
    if not found.open:
        return 0
    refuse_naming_if_known(
        words,
        settings,
        Home(settings).keys,
        where="--reason-text",
        wanted="dead-letters.discard",
        by=principal,
        record=audit.record,
    )
    audit.record(AuditEvent("dead-letters.discard", principal.subject, principal.role, (), _detail(choice, words)))
    jobs, unknown = lineages(settings, found.decoders)
    mine: dict[str, set[Source]] = defaultdict(set)
    for lineage in jobs:
        mine[lineage.stream.dataset] |= lineage.sources
    # Nobody can have replayed what no job knows: it is decided beside any dataset's.
    mine[next(iter(settings.jobs.values())).dataset] |= set(unknown)
    count = 0
    for dataset, sources in sorted(mine.items()):
        if sources:
            which = replace(choice, sources=frozenset(sources))
            count += _discard(settings, dataset, which, words=words, actor=principal.subject)
    return count


def _discard(settings: Settings, dataset: str, choice: Choice, *, words: str, actor: str) -> int:
    """Give up what is open, beginning anew where something has changed under way."""
    count = 0
    for attempt in range(ATTEMPTS):
        try:
            for rows in _decided(settings, dataset, choice, words=words, actor=actor):
                count += rows
        except (SpanConflict, LettersMoved):
            if attempt == ATTEMPTS - 1:
                raise
        else:
            break
    return count


def _decided(settings: Settings, dataset: str, choice: Choice, *, words: str, actor: str) -> Iterator[int]:
    """Give up file after file; yield how many messages of each were open."""
    lake = Home(settings).lake(dataset)
    lake.open_all()
    writer = ReprocessWriter(lake, kind="replay", steps=None)
    lake.quarantine.refresh()
    done = resolved(lake, DEAD_LETTER)
    for places in open_places(lake, DEAD_LETTER, choice, done=done):
        rows = resolution_rows(places, table=DEAD_LETTER, outcome="discarded", reasons=words, actor=actor)
        writer.decide([], rules="", decoder="", resolutions=rows, messages=rows.num_rows)
        yield rows.num_rows


def _detail(choice: Choice, words: str) -> dict[str, str]:
    """Return what of it is codes: which ones, and a digest that binds the words."""
    detail = {"why_sha": hashlib.sha256(words.encode()).hexdigest()}
    detail |= {"reason": choice.reason} if choice.reason else {}
    if choice.source:
        topic, _, partition = choice.source.rstrip("]").rpartition("[")
        detail |= {"topic": topic, "partition": partition}
    return detail | ({} if choice.position is None else {"position": str(choice.position)})
