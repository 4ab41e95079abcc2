"""Discards dead letters for good: with a reason in words, and recorded in the audit."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace

from governance.access import Principal
from governance.audit import AuditEvent, AuditSink
from governance.belonging import admit
from governance.erasure.reasons import refuse_naming_if_known
from governance.keyservice.service import KeyRevoked
from governance.keyuse import open_vault
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
from pipelines.intake.online_feed.feed import TAKEN, OnlineFeed
from pipelines.reprocess.origins import lineages
from pipelines.reprocess.redecoding import resolution_rows
from pipelines.reprocess.writing import ReprocessWriter
from vitalake.errors import InputError
from vitalake.home import Home
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span_log import SpanConflict
from vitalake.settings import Settings

MOST_WORDS = 500
"""Longest reason, in characters: a sentence or two, and the number of a ticket."""

_PSEUDONYM = re.compile(r"v\d+\.[a-z2-7]{32}")


def checked_words(words: str) -> str:
    """Return the words of a reason, trimmed.

    Raises:
        InputError: the reason is empty, too long or not one line of text, or contains a pseudonym.
    """
    trimmed = words.strip()
    if not trimmed or not any(letter.isalpha() for letter in trimmed):
        raise InputError("A reason is needed", where="--reason-text", remedy="Say in words why they are discarded.")
    if _PSEUDONYM.search(trimmed):
        raise InputError("Reason names a patient", where="--reason-text", remedy="Write it without the pseudonym.")
    if len(trimmed) > MOST_WORDS or any(unicodedata.category(letter)[0] == "C" for letter in trimmed):
        raise InputError(
            "Reason is not one line of text",
            where="--reason-text",
            remedy=f"Write one line of at most {MOST_WORDS} characters.",
        )
    return trimmed


def discard(settings: Settings, choice: Choice, *, words: str, principal: Principal, audit: AuditSink) -> int:
    """Discard open dead letters; return how many. They are never replayed again, and expire as others do.

    The audit records it before it is done, and also when the words are refused. Nothing is decrypted, so patients' keys
    are not needed. The audit keeps only a digest of the words; the words themselves are stored in the resolutions.

    Args:
        settings: of the home.
        choice: which of them.
        words: why; they must not name a patient.
        principal: who does it.
        audit: records it.

    Raises:
        InputError: the words are not one line of text, or name a patient.
        Overtaken: a replay has begun meanwhile; what was decided stays.
        VitaLakeError: it cannot be recorded, or the lake cannot be written.
    """
    words = checked_words(words)
    admit(settings)
    lake = Home(settings).lake()
    counted = census(lake, DEAD_LETTER, choice)
    if not counted.open:
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
    jobs, unknown = lineages(settings, counted.decoders, lake.spans.all_spans())
    sources_of: dict[str, set[Source]] = defaultdict(set)
    for lineage in jobs:
        sources_of[lineage.stream.dataset] |= lineage.sources
    # No replay can be under way of messages that no job reads: any dataset can resolve them.
    if unknown:
        sources_of[next((job.dataset for job in settings.jobs.values()), "observation")] |= set(unknown)
    count = 0
    for dataset, sources in sorted(sources_of.items()):
        if sources:
            of_dataset = replace(choice, sources=frozenset(sources))
            count += _discard(settings, dataset, of_dataset, words=words, actor=principal.subject)
    return count


def _discard(settings: Settings, dataset: str, choice: Choice, *, words: str, actor: str) -> int:
    """Discard the open messages; start again if rules, keys or the table change meanwhile."""
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
    """Discard the open messages file by file; yield how many each file had."""
    lake = Home(settings).lake(dataset)
    lake.open_all()
    writer = ReprocessWriter(lake, kind="replay", steps=None)
    _take_back(settings, lake, writer)
    lake.quarantine.refresh()
    done = resolved(lake, DEAD_LETTER)
    for places in open_places(lake, DEAD_LETTER, choice, done=done):
        rows = resolution_rows(places, table=DEAD_LETTER, outcome="discarded", reasons=words, actor=actor)
        writer.decide([], rules="", decoder="", resolutions=rows, messages=rows.num_rows)
        yield rows.num_rows


def _take_back(settings: Settings, lake: Lake, writer: ReprocessWriter) -> None:
    """Delete from the online store what a killed replay has handed over and not decided: it may be discarded now."""
    if lake.dataset.name not in TAKEN or not settings.path(settings.care.path).exists():
        return
    keys = Home(settings).keys
    with suppress(KeyRevoked), ExitStack() as opened:  # what is revoked nobody sees, and the next replay deletes it
        vault = opened.enter_context(closing(open_vault(settings, keys, purpose="discard")))
        feed = opened.enter_context(closing(OnlineFeed(settings, lake.dataset, keys, vault)))
        feed.reprocess(writer.part, writer.position, epoch=writer.epoch)


def _detail(choice: Choice, words: str) -> dict[str, str]:
    """Return the detail for the audit: codes that say which messages, and a digest of the words."""
    detail = {"why_sha": hashlib.sha256(words.encode()).hexdigest()}
    detail |= {"reason": choice.reason} if choice.reason else {}
    if choice.source:
        topic, _, partition = choice.source.rstrip("]").rpartition("[")
        detail |= {"topic": topic, "partition": partition}
    return detail | ({} if choice.position is None else {"position": str(choice.position)})
