"""The journal of a long job: small files in the lake that say how far it is, so that a killed one goes on from there.

``jobs/<dataset>/job.json`` is the job, one a dataset; beside it one file for each piece of work that is done, with the
names of what it has staged. Whoever writes one renews the lease: files of a job that has written nothing for a day are
given up by the sweeper.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from vitalake import clock
from vitalake.errors import LakeError
from vitalake.lake.tables.storage import Storage
from vitalake.lake.tables.table import StagedFile

FOLDER = "jobs"
JOB_LEASE_SECONDS = 86_400.0
"""A day: a job that was killed in the evening is gone on with in the morning."""

_JOB = "job.json"
_T = TypeVar("_T")


class Job(msgspec.Struct, frozen=True):
    """A job that is under way.

    Attributes:
        id: 16 hex digits; stands in the names of its files.
        kind: what it is.
        dataset: of which.
        fence: of the dataset, which the job has raised.
        rules: version of the rules it publishes by.
        begun_us: when, microseconds since 1970 UTC.
    """

    id: str
    kind: str
    dataset: str
    fence: int
    rules: str
    begun_us: int


class Work(msgspec.Struct, frozen=True):
    """A piece of a job that is done.

    Attributes:
        source: the files that were read.
        files: the files that were staged.
        rows: read.
        filtered: rows that a rule leaves out.
        forgotten: rows of patients whose key is destroyed.
        unfit: column → rows that are published without what was sent there.
    """

    source: list[str]
    files: list[StagedFile]
    rows: int
    filtered: int
    forgotten: int
    unfit: dict[str, int] = {}


class Journal:
    """The journal of one dataset's job."""

    def __init__(self, lake: Storage, dataset: str) -> None:
        self._storage = lake.child(f"{FOLDER}/{dataset}")

    def job(self) -> Job | None:
        """Return the job that is under way; None: none is."""
        content = self._storage.read_small(_JOB)
        return None if content is None else _decoded(content, Job)

    def begin(self, job: Job) -> None:
        """Write a job down; what is there of an earlier one is deleted first."""
        self.end()
        self._storage.write_small(_JOB, msgspec.json.encode(job))

    def renew(self, job: Job) -> None:
        """Renew the lease."""
        self._storage.write_small(_JOB, msgspec.json.encode(job))

    def end(self) -> None:
        """Delete it; the job itself last, so that a killed end is ended again."""
        for path in sorted(self._storage.files(suffix=""), key=lambda path: path == _JOB):
            self._storage.delete(path)

    def done(self, source: Sequence[str]) -> Work | None:
        """Return what was made of these files already."""
        content = self._storage.read_small(_name(source))
        found = None if content is None else _decoded(content, Work)
        return found if found and found.source == list(source) else None

    def record(self, work: Work) -> None:
        """Write down that a piece is done."""
        self._storage.write_small(_name(work.source), msgspec.json.encode(work))

    def is_alive(self, *, lease_seconds: float = JOB_LEASE_SECONDS) -> bool:
        """Return whether the job has written something within the lease."""
        newest = max(self._storage.files(suffix=".json").values(), default=0.0)
        return newest > clock.now().timestamp() - lease_seconds


def _name(source: Sequence[str]) -> str:
    return f"{hashlib.blake2b('/'.join(source).encode(), digest_size=16).hexdigest()}.json"


def _decoded(content: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.MsgspecError:
        raise LakeError(
            "Journal of a job cannot be read", where=FOLDER, remedy="Delete that folder; the job begins anew."
        ) from None
