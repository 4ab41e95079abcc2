"""The journal of a long job: small files in the lake that record its progress, so that a killed job can be resumed.

``jobs/<dataset>/job.json`` is the job, one for each dataset. Beside it lies one file for each piece of work that is
done, with the names of the files it staged. Writing any of these files renews the lease: the sweeper gives up a job
that has written nothing for a day, and deletes what it staged.
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
"""A day: a job that was killed in the evening can be resumed in the morning."""

_JOB = "job.json"
_T = TypeVar("_T")


class Job(msgspec.Struct, frozen=True):
    """A job that is under way.

    Attributes:
        id: 16 hex digits, which stand in the names of the files that it stages.
        kind: what the job does, such as a republish.
        dataset: the dataset it works on.
        fence: the fence of the dataset, which the job raised when it began.
        rules: version of the rules by which it publishes.
        begun_us: when it began, in microseconds since 1970 UTC.
    """

    id: str
    kind: str
    dataset: str
    fence: int
    rules: str
    begun_us: int


class Work(msgspec.Struct, frozen=True):
    """A finished piece of a job.

    Attributes:
        source: the files that were read.
        files: the files that were staged.
        rows: rows that were read.
        filtered: rows that a rule leaves out.
        forgotten: rows of patients whose key is destroyed.
        unfit: column → published rows in which the column is null because it may not hold the sent value.
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
        """Return the job that is under way; None: there is no job."""
        content = self._storage.read_small(_JOB)
        return None if content is None else _decoded(content, Job)

    def begin(self, job: Job) -> None:
        """Record a job; the journal of an earlier job is deleted first."""
        self.end()
        self._storage.write_small(_JOB, msgspec.json.encode(job))

    def renew(self, job: Job) -> None:
        """Renew the lease."""
        self._storage.write_small(_JOB, msgspec.json.encode(job))

    def end(self) -> None:
        """Delete the journal; the job's own file last, so that a killed ``end`` can be repeated."""
        for path in sorted(self._storage.files(suffix=""), key=lambda path: path == _JOB):
            self._storage.delete(path)

    def done(self, source: Sequence[str]) -> Work | None:
        """Return the finished piece of work for these source files; None: it is not done yet."""
        content = self._storage.read_small(_name(source))
        found = None if content is None else _decoded(content, Work)
        return found if found and found.source == list(source) else None

    def record(self, work: Work) -> None:
        """Record that a piece of work is done."""
        self._storage.write_small(_name(work.source), msgspec.json.encode(work))

    def is_alive(self, *, lease_seconds: float = JOB_LEASE_SECONDS) -> bool:
        """Return whether the job has written something within the lease time."""
        newest = max(self._storage.files(suffix=".json").values(), default=0.0)
        return newest > clock.now().timestamp() - lease_seconds


def _name(source: Sequence[str]) -> str:
    return f"{hashlib.blake2b('/'.join(source).encode(), digest_size=16).hexdigest()}.json"


def _decoded(content: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise LakeError(
            "Journal of a job cannot be read",
            where=FOLDER,
            remedy="Delete that folder; the job starts again from its beginning.",
        ) from None
