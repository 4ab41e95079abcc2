"""Corrections end to end: messages in any order and any poll, through decoder, masks and files, to a query."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from governance.query.catalogue import Catalogue
from governance.query.engine import connect
from pipelines.core.poll import DecodedPoll, Poll
from pipelines.formats.registry import make_decoder
from pipelines.intake.steps import Steps
from tests.fhir import observation
from vitalake.keys import load_keys
from vitalake.lake.commits.span import PartId
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.tables.storage import open_storage
from vitalake.lake.tables.table import Table
from vitalake.settings import StreamSettings, load_settings

pytestmark = pytest.mark.slow

DATASET = load_dataset("observation")
NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)


def fhir(hour: int, *, meta: dict[str, str] | None, **changes: Any) -> bytes:
    """Return a heart rate as it was issued at an hour after noon."""
    issued = (NOON + timedelta(hours=hour)).isoformat()
    return json.dumps(observation(1, meta=meta, issued=issued, **changes)).encode()


def quantity(value: float) -> dict[str, Any]:
    return {"value": value, "unit": "/min", "system": "http://unitsofmeasure.org", "code": "/min"}


def hl7(hour: int, status: str, value: str) -> bytes:
    """Return a heart rate as an ORU^R01 that was sent at an hour after noon."""
    sent = (NOON + timedelta(hours=hour)).strftime("%Y%m%d%H%M%S+0000")
    segments = (
        f"MSH|^~\\&|MON|ICU|LAKE|H|{sent}||ORU^R01^ORU_R01|{hour}|P|2.6",
        "PID|1||p-1^^^HOSP^MR",
        "OBR|1|order-1|filler-1|8867-4^Heart rate^LN|||20250601100001+0000",
        f"OBX|1|NM|8867-4^Heart rate^LN||{value}|/min^/min^UCUM|||||{status}|||20250601100001+0000||||mon-1",
    )
    return "\r".join(segments).encode() + b"\r"


class Lane:
    """Takes polls as a lane does, into real files, and shows what the query service shows."""

    def __init__(self, home: Path, name: str = "fhir") -> None:
        self._settings = load_settings(home)
        # HL7 v2 says when a message was sent: hours are told apart only where that is published.
        stream = StreamSettings(care=False, publish_arrival=name == "hl7-v2")
        self._steps = Steps(self._settings, stream, DATASET)
        self._decoder = make_decoder(name, dataset="observation", stream=stream, settings=self._settings)
        self._table = Table(DATASET, open_storage(self._settings.lake_uri, {}), zone="published")
        self._format, self._offset, self._commits = name, 0, 0

    def take(self, messages: Sequence[bytes], *, topic: str = "vitals") -> None:
        """Publish a poll: it is committed by itself."""
        count = len(messages)
        poll = Poll(
            shard=f"{topic}/0of1",
            format=self._format,
            values=list(messages),
            parts=(PartId(topic, "0123456789abcdefghijkl", 0),),
            part=np.zeros(count, np.int32),
            offset=np.arange(self._offset, self._offset + count),
            broker_ms=np.full(count, round((NOON + timedelta(days=9)).timestamp() * 1000)),
        )
        outcome = self._steps.mask(self._steps.conform(DecodedPoll(poll, self._decoder.decode(messages))))
        assert not outcome.rejects
        self._offset += count
        self._commits += 1
        staged = self._table.stage(pa.Table.from_batches([outcome.rows]), stem=f"s{self._commits}")
        self._table.commit(add=staged, transactions={"lane": self._commits})
        self._table.refresh()

    def shown(self) -> dict[str, list[float]]:
        """Return the values that are current, and those as known half an hour after noon, after one and so on."""
        self._steps.close()
        catalogue = Catalogue(self._settings, load_keys(self._settings.path(self._settings.keys)))
        with catalogue.relations(["observation"]) as relations:
            connection = connect(relations, memory_mb=256)
            found = {"current": _values(connection, "observation")}
            for hour in range(-1, 4):
                moment = (NOON + timedelta(hours=hour, minutes=30)).isoformat()
                found[f"{hour}½"] = _values(connection, f"observation_as_known_at('{moment}')")
            connection.close()
        return found


def _values(connection: Any, source: str) -> list[float]:
    return [value for (value,) in connection.sql(f"SELECT value FROM {source} ORDER BY value").fetchall()]  # noqa: S608


def _messages(meta: str) -> list[bytes]:
    """Return messages, an hour apart: a value, its amendment, a correction of that, and its withdrawal as an error."""
    metas: dict[str, list[dict[str, str] | None]] = {
        "versionId": [{"versionId": str(n)} for n in (1, 2, 3, 4)],
        "versions from 9 to 12": [{"versionId": str(n)} for n in (9, 10, 11, 12)],
        "lastUpdated": [{"lastUpdated": (NOON + timedelta(hours=n)).isoformat()} for n in range(4)],
        "neither": [None] * 4,
    }
    first, second, third, last = metas[meta]
    return [
        fhir(0, meta=first),
        fhir(1, meta=second, status="amended", valueQuantity=quantity(80)),
        fhir(2, meta=third, status="corrected", valueQuantity=quantity(75)),
        fhir(3, meta=last, status="entered-in-error", valueQuantity=None),
    ]


ORDERS = list(itertools.permutations(range(3)))
METAS = ["versionId", "versions from 9 to 12", "lastUpdated", "neither"]


@pytest.mark.parametrize("meta", METAS)
@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("polls", [1, 3])
def test_corrections_count_from_when_they_were_issued_in_whatever_order_they_come(
    home: Path, meta: str, order: tuple[int, ...], polls: int
) -> None:
    lane, messages = Lane(home), _messages(meta)
    ordered = [messages[i] for i in order]
    for poll in [ordered] if polls == 1 else [[message] for message in ordered]:
        lane.take(poll)
    expected = {"-1½": [], "0½": [72.0], "1½": [80.0], "2½": [75.0], "3½": [75.0], "current": [75.0]}
    assert lane.shown() == expected


@pytest.mark.parametrize("meta", METAS)
@pytest.mark.parametrize("backwards", [False, True])
def test_a_mistake_is_taken_back_and_what_was_known_before_stays(home: Path, meta: str, backwards: bool) -> None:
    lane, messages = Lane(home), _messages(meta)
    lane.take(messages[::-1] if backwards else messages)
    lane.take(messages[:1], topic="replayed")  # as a replay, or a late copy: it does not come back
    expected = {"-1½": [], "0½": [72.0], "1½": [80.0], "2½": [75.0], "3½": [], "current": []}
    assert lane.shown() == expected


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize(("last", "left"), [("C", [75.0]), ("W", []), ("D", []), ("X", [])])
def test_corrections_by_hl7_do_as_well(home: Path, order: tuple[int, ...], last: str, left: list[float]) -> None:
    messages = [hl7(0, "F", "72"), hl7(1, "C", "80"), hl7(2, last, "75")]
    lane = Lane(home, "hl7-v2")
    lane.take([messages[i] for i in order])
    expected = {"-1½": [], "0½": [72.0], "1½": [80.0], "2½": left, "3½": left, "current": left}
    assert lane.shown() == expected


def test_a_preliminary_result_gives_way_to_the_final_one_of_the_same_moment(home: Path) -> None:
    lane = Lane(home)
    lane.take([fhir(0, meta=None), fhir(0, meta=None, status="preliminary", valueQuantity=quantity(60))])
    assert lane.shown()["current"] == [72.0]
