"""Finds the spans that the spans table has lost: their rows lie beside it, and positions say which were decided."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress

import pyarrow as pa

from vitalake.lake.commits.ledger import Chain
from vitalake.lake.commits.span import Part, Span, from_row
from vitalake.lake.maintenance.rewrite import read_file
from vitalake.lake.maintenance.vacuum import kept_files, span_id_of
from vitalake.lake.tables.digests import Damaged
from vitalake.lake.tables.table import StagedFile, Table


def loose_rows(table: Table) -> list[tuple[Span, str]]:
    """Return the spans that the table lacks and whose rows lie in files beside it, each with the path of its own file.

    The path is empty if the row is in a merged file. A span whose file was left out as damaged is returned once the
    file is back from a back-up.
    """
    here, ids = table.snapshot().files, set[str]()
    for path, file in here.items():
        own = span_id_of(path)
        try:
            ids |= {own} if own else _ids_of(table, file)
        except (Damaged, FileNotFoundError):  # a merged file that cannot be read: it may hold any of these spans
            ids |= {span_id_of(kept) for kept in kept_files(table)}
    found = []
    for path in table.storage.files():
        if path in here or span_id_of(path) in ids:
            continue
        with suppress(Damaged, FileNotFoundError, pa.ArrowException):
            spans = map(from_row, table.storage.read_parquet(path).to_pylist())
            found += [(span, path if span_id_of(path) else "") for span in spans if span.span_id not in ids]
    return found


def _ids_of(table: Table, file: StagedFile) -> set[str]:
    return {span_id for part in read_file(table, file, columns=["span_id"]) for span_id in part["span_id"].to_pylist()}


def passed_spans(
    loose: Iterable[tuple[Span, str]], known: Iterable[Span], reached: Mapping[str, int]
) -> list[tuple[Span, str]]:
    """Return the spans of stretches that positions have passed and that no known span covers.

    A killed worker and its successor can have made spans of the same messages. First those are chosen that end where
    positions are, or where a span begins that was decided: a stretch that ends elsewhere was followed by none. Others
    fill what is left, where a span between cannot be read any more.

    Args:
        loose: the spans to choose from, each with the path of its row.
        known: the spans that were decided.
        reached: the highest position of each partition, by application id.
    """
    chains = defaultdict[str, Chain](Chain)
    edges = {app: {position} for app, position in reached.items()}
    for span in known:
        for part in span.parts:
            app = part.id.app_id(span.dataset)
            chains[app].add(_start(part), part.end)
            edges.setdefault(app, set()).add(_start(part))
    chosen: list[tuple[Span, str]] = []
    passed_by = dict(reached)
    left = sorted(_without_twins(loose), key=lambda item: (item[0].fence, item[0].decided_us), reverse=True)
    for exact in (True, False):
        count = -1
        while count != len(chosen):
            count, others = len(chosen), []
            for item in left:
                stretches = _stretches(item[0])
                passed = [
                    start < end <= passed_by.get(app, 0)
                    and chains[app].is_free(start, end)
                    and not (exact and end not in edges[app])
                    for app, start, end in stretches
                ]
                beyond = [start >= passed_by.get(app, 0) for app, start, _ in stretches]
                if not (any(passed) and all(p or b for p, b in zip(passed, beyond, strict=True))):
                    others.append(item)
                    continue
                chosen.append(item)
                for app, start, end in stretches:
                    chains[app].add(start, end)
                    edges.setdefault(app, set()).add(start)
                    passed_by[app] = max(passed_by.get(app, 0), end)
            left = others
    return chosen


def _without_twins(loose: Iterable[tuple[Span, str]]) -> list[tuple[Span, str]]:
    """Return the spans, of those with the same stretches only the one that was decided, if any was: the newest."""
    best: dict[tuple[tuple[str, int, int], ...], tuple[Span, str]] = {}
    for span, path in loose:
        stretches = tuple(sorted(_stretches(span)))
        other = best.get(stretches, (None, ""))[0]
        same = other is not None and (other.job, other.shard) == (span.job, span.shard)
        # Epochs are of one shard: they tell what the time does not if the clock was set back.
        if other is None or _rank(span, by_epoch=same) > _rank(other, by_epoch=same):
            best[stretches] = span, path
    return list(best.values())


def _rank(span: Span, *, by_epoch: bool) -> tuple[int, int, int]:
    return span.fence, span.epoch if by_epoch else 0, span.decided_us


def _stretches(span: Span) -> list[tuple[str, int, int]]:
    return [(part.id.app_id(span.dataset), _start(part), part.end) for part in span.parts]


def _start(part: Part) -> int:
    return part.first if part.start is None else part.start
