"""The transactions that the tables of a lake keep: what each says, and how it is right again where a log has lost it.

A transaction of Delta is a number by the id of an application. Every kind is listed here, with what a repair does about
it, so that none is forgotten: each kind that a repair did not know was once a fence or an epoch reached twice.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

Name = Literal[
    "position", "topic", "claim", "last load", "fence", "epoch", "repaired",
    "associations", "looked", "maintenance", "rewritten rows", "lock", "lost rows", "schema",
]  # fmt: skip

Restored = Literal["from spans", "above", "lower", "as undone"]
"""How a transaction is right again after a repair of its log.

- from spans: the spans say it; ``repair`` commits it again. What no span says was begun and never used: it is begun
  again.
- above: nothing says it; ``repair`` raises it above everything that can have been lost.
- lower: a lower number makes somebody do again what does no harm if it is done again; ``repair`` ends a lock that
  nobody holds.
- as undone: the same entry did what it counts (removed files, changed columns), so both are gone together.
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of transaction.

    Attributes:
        name: what is said of it here and in tests.
        form: of the ids of its applications; the groups are what they name.
        says: what its number is.
        restored: how it is right again.
    """

    name: Name
    form: re.Pattern[str]
    says: str
    restored: Restored


_PARTS = {
    "dataset": "[a-z0-9_]+",
    "topic_id": ".+",  # of Kafka it is base64, with slashes
    "topic": "[^/]*",  # empty: it cannot be known any more
    "partition": r"\d+",
    "job": "[^/]+",
    "shard": "[^/]+",
    "table": "(?:(?:published|restricted|quarantine)/)?[a-z0-9_]+",
}


def _kind(name: Name, form: str, says: str, restored: Restored) -> Kind:
    pattern = re.sub("<(.+?)>", lambda part: f"(?P<{part[1]}>{_PARTS[part[1]]})", form)
    return Kind(name, re.compile(pattern), says, restored)


REPAIRED = "repaired"
"""The application that keeps the newest version that a repair set aside, once nothing can rest on it any more."""

# A job or a dataset can be called like the first word of a form, so the first form that fits counts: a name of a topic
# can be a number, and only by its length is the id of a topic told from another dataset's name and id.
KINDS = (
    _kind("repaired", f"{REPAIRED}|cut", "newest version that a repair set aside and made up for", "above"),
    _kind("schema", "schema", "revision of the dataset that the table's columns were brought to", "as undone"),
    _kind("maintenance", "maintenance/<table>", "number of the newest rewrite", "as undone"),
    _kind("rewritten rows", "rows/<table>", "rows that rewrites added or (negative) dropped", "as undone"),
    _kind("lock", "swap/<table>", "number of the newest lock of a replacement; even: it is not locked", "lower"),
    _kind("lost rows", "lost/<table>", "rows that were left out of the table as lost", "as undone"),
    _kind("fence", "fence/<dataset>", "height of the dataset's fence", "above"),
    _kind("epoch", "<job>/<shard>/epoch", "newest epoch of the shard", "above"),
    _kind("position", r"(?!topic/.{23,}/\d+$)<dataset>/<topic_id>/<partition>", "where it is read on", "from spans"),
    _kind("topic", "topic/<dataset>/<topic_id>/<topic>", "1: the topic of this name was begun", "from spans"),
    _kind("claim", "claim/<dataset>/<topic_id>", "number of the job that reads the topic", "from spans"),
    _kind("last load", "last/<dataset>/<topic_id>", "load of the topic's last span", "from spans"),
    _kind("associations", "attribution/<dataset>/associations", "version all rows are attributed by", "lower"),
    _kind("looked", "attribution/<dataset>/looked", "when spans were looked at, in microseconds", "lower"),
)


def kind_of(app: str) -> tuple[Name | None, dict[str, str]]:
    """Return the kind of an application id and what the id names, by group; (None, {}): no release has such an id."""
    for kind in KINDS:
        if found := kind.form.fullmatch(app):
            return kind.name, found.groupdict()
    return None, {}


def position_app(dataset: str, topic_id: str, partition: int) -> str:
    """Return the application whose transaction keeps a partition's position."""
    return f"{dataset}/{topic_id}/{partition}"


def fence_app(dataset: str) -> str:
    """Return the application whose transaction keeps the height of a dataset's fence."""
    return f"fence/{dataset}"


def epoch_app(job: str, shard: str) -> str:
    """Return the application whose transaction keeps a shard's newest epoch."""
    return f"{job}/{shard}/epoch"


def claim_app(dataset: str, topic_id: str) -> str:
    """Return the application whose transaction keeps the number of the job that reads a topic."""
    return f"claim/{dataset}/{topic_id}"


def topic_app(dataset: str, topic_id: str, topic: str) -> str:
    """Return the application whose transaction keeps that a topic of this name was begun."""
    return f"topic/{dataset}/{topic_id}/{topic}"


def last_app(dataset: str, topic_id: str) -> str:
    """Return the application whose transaction keeps the load of a topic's last span."""
    return f"last/{dataset}/{topic_id}"


def attribution_apps(dataset: str) -> tuple[str, str]:
    """Return the applications that keep by which associations rows are attributed, and when spans were looked at."""
    return f"attribution/{dataset}/associations", f"attribution/{dataset}/looked"


def maintenance_app(table: str) -> str:
    """Return the application whose transaction every rewrite of this table counts up."""
    return f"maintenance/{table}"


def rows_app(table: str) -> str:
    """Return the application whose transaction sums up the rows that rewrites added or (negative) dropped."""
    return f"rows/{table}"


def replacement_app(table: str) -> str:
    """Return the application whose transaction is odd while a replacement locks the table: see lock.py."""
    return f"swap/{table}"


def lost_app(table: str) -> str:
    """Return the application whose transaction counts the rows that were left out of the table as lost."""
    return f"lost/{table}"


def job_number(job: str) -> int:
    """Return the number by which a claim names a job: the versions of transactions are int64."""
    return int.from_bytes(hashlib.blake2b(job.encode(), digest_size=7).digest())
