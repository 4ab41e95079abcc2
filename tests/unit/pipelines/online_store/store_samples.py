"""An online store to test, and values to store in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.online_store.store import OnlineStore
from pipelines.online_store.values import ROW, Values, stage_of
from vitalake import clock
from vitalake.clinical.records import code_number
from vitalake.keys import Key
from vitalake.sealing import Sealer

KEY = Key("care", "v1", bytes(range(32)))
MINUTE = 60_000_000


def open_store(folder: Path, *, hours: float = 48.0, key: Key = KEY) -> OnlineStore:
    return OnlineStore(folder / "care.db", Sealer(key), hours=hours)


def values_of(
    count: int, *, first: int = 0, patient: str = "v1.p", part: str = "t/0", begin_us: int | None = None
) -> Values:
    begin = clock.now_us() - 1000 * MINUTE if begin_us is None else begin_us
    rows = np.zeros(count, ROW)
    place = np.arange(first, first + count)
    rows["code"] = code_number("8867-4")
    rows["value"] = place
    rows["effective_us"] = rows["available_us"] = begin + place * 1000
    rows["id"] = place + 1
    nothing = np.zeros(count, np.int32)
    return Values(rows, nothing, [patient], place.astype(np.int64), nothing, [part])


def take(store: OnlineStore, values: Values, *, writer: str = "vitals/0of1", epoch: int | None = None) -> int:
    end = int(values.position.max()) + 1
    return store.take(values, writer=writer, ends={values.parts[0]: end}, epoch=epoch)


def attributed(
    patient: str, *, attribution: int, value: float = 1.0, withdrawn: bool = False, position: int = 0
) -> Values:
    values = values_of(1, first=position, patient=patient, part="t/0")
    values.rows["id"], values.rows["value"] = 7, value
    values.rows["stage"] = stage_of("entered-in-error" if withdrawn else "final")
    values.rows["attribution"] = attribution
    values.rows["effective_us"] = values.rows["available_us"] = clock.now_us() - MINUTE
    return values


def stated(patient: str, *, version: int, status: str, position: int, attribution: int = 0) -> Values:
    values = attributed(patient, attribution=attribution, position=position)
    values.rows["version"], values.rows["stage"] = version, stage_of(status)
    return values
