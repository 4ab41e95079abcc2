"""Refuses rows that would take the place of other patients' records, or that another namespace makes other records."""

from __future__ import annotations

import logging

from pipelines.history.change_detection import NEW, SKIPPED, Plan
from pipelines.history.digests import Entries
from pipelines.history.gate import QualityError
from pipelines.history.incarnations import (
    last_loads,
    loaded_incarnations,
    lost_sources,
    name_of,
    part_of,
    positions_of,
)
from pipelines.history.job import Job
from pipelines.history.known_rows import Before, KnownRows
from vitalake.errors import SettingsError
from vitalake.lake.commits.lake import Lake

_log = logging.getLogger(__name__)

MOST_MOVED = 0.5
"""Share of a source's records that a load may give to other patients. Merged patients and corrections are mostly far
below it; another warehouse that gives the same numbers gives nearly all to others. A single record may always move."""

BEFORE_NAMESPACE = "|"
"""Stands between the digest of a query's columns and the job's namespace."""


def with_namespace(form: str, job: Job) -> str:
    """Return a digest of a query's columns together with the job's namespace."""
    return form if job.namespace is None else f"{form}{BEFORE_NAMESPACE}{job.namespace}"


def check_namespace(known: KnownRows, form: str, lake: Lake, job: Job) -> None:
    """Refuse a job that has another namespace than when it loaded its rows: each would be loaded again as another.

    Raises:
        SettingsError: it has, in this incarnation or in another one.
        LakeError: the digests of an incarnation are damaged.
    """
    for name in {known.name, *map(name_of, loaded_incarnations(lake, job))}:
        told = (known if name == known.name else KnownRows(known.home, name)).read(also_older=True)
        # A load that was killed early can have left entries only.
        if not (positions_of(lake, part_of(name)) and told.entries.size and form):
            continue
        if told.form.partition(BEFORE_NAMESPACE)[2] != form.partition(BEFORE_NAMESPACE)[2]:
            raise SettingsError(
                "Job's namespace is another than that of the rows that it has loaded",
                where=known.name.rpartition(".")[0],
                remedy="Write the earlier one, or none if there was none; or load under another source.",
            )


def check_owners(
    known: KnownRows,
    found: Entries,
    form: str,
    to_load: Plan,
    lake: Lake,
    job: Job,
    *,
    accept_moved: bool = False,
    warn: bool = False,
) -> Before:
    """Refuse records that were loaded before for other patients; return what was loaded before.

    Of a record of another source and one of this, only one would be shown. What this source has loaded before it may
    give to another patient, which is reported if another source has it: a refusal would not bring it back, and two
    sources that have the same records would each wait for the other. But most of its records it does not give to
    others: so does another warehouse that is loaded under its name.

    Args:
        known: the digests of the source.
        found: the entries of all messages of the query.
        form: a digest of the query's columns, with the namespace.
        to_load: what is to be done with each message.
        lake: of the dataset.
        job: of the source.
        accept_moved: whether most of its records may go to other patients, because somebody has said so.
        warn: whether to report records that another source has for other patients.

    Raises:
        QualityError: there are some among the messages that are to be loaded, or most are.
        LakeError: the digests of a source are damaged.
    """
    asked = to_load.fate != SKIPPED
    if known.read().form != form:  # skipped by their keys, whatever they say
        asked[:] = True
    incarnations = {name_of(part) for part in loaded_incarnations(lake, job)}
    before = known.before(found, asked, lambda name: positions_of(lake, part_of(name)), incarnations, last_loads(lake))
    where = f"{known.name.rpartition('.')[0]}: {{:,}} of {{:,}}{{}}"
    moved, own = int(before.moved.sum()), int(before.own.sum())
    if moved > max(1, MOST_MOVED * own) and not accept_moved:
        raise QualityError(
            "Rows give most records that this source has loaded to other patients, as another warehouse does",
            where=where.format(moved, own, ""),
            remedy="Nothing of it was published. Load another warehouse under another source, with a namespace if it "
            "numbers for itself. If the records are meant, after merges for example, load once with --accept-moved.",
        )
    refused = before.foreign & (to_load.fate == NEW) & ~before.own
    if count := int(refused.sum()):
        raise QualityError(
            "Rows have numbers that another source has given to records of other patients",
            where=where.format(count, len(found), f"; {', '.join(before.sources)}"),
            remedy="Nothing of it was published. If the numbers are the job's own, give it a namespace, and another "
            "source if it has loaded rows: see docs/how-to/history.md, two sources.",
        )
    if warn:
        _warn(known, before, lost_sources(lake, job, known.home))
    return before


def _warn(known: KnownRows, before: Before, lost: list[str]) -> None:
    """Report what a load does not refuse."""
    if lost:
        _log.warning(
            "digests of other sources are missing: whether they have the records of this one is not known",
            extra={
                "where": f"{known.name}; {', '.join(lost)}",
                "count": len(lost),
                "remedy": "Restore the files, or load those sources. See docs/how-to/history.md.",
            },
        )
    if before.foreign.any():
        _log.warning(
            "another source has the numbers of these records for other patients: of each two, only one is shown",
            extra={
                "where": known.name,
                "count": int(before.foreign.sum()),
                "remedy": "See docs/how-to/history.md.",
            },
        )
