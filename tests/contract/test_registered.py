"""Every mask, notification rule, format, warehouse, page and store that is registered goes through its contract."""

from __future__ import annotations

import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from governance.erasure.stores import personal_stores
from governance.policy.masks import mask_kinds
from models.scoring import ScoreRecord
from models.serving.pages.registry import registered_pages
from models.serving.personal import ScoresOfPatients
from models.serving.scores import FILE as SCORES
from models.serving.scores import ScoreBook
from pipelines.formats.registry import OURS, format_kind, registered
from pipelines.history.warehouses import duckdb as duckdb_kind
from pipelines.history.warehouses import postgresql as postgresql_kind
from pipelines.history.warehouses.registry import registered as registered_warehouses
from pipelines.intake.personal import OnlineStoreOfPatients
from pipelines.online_store.facts import Admission
from pipelines.online_store.opening import open_online_store, store_sealer
from pipelines.online_store.values import ROW, Values
from tests.contract.formats import FormatContract
from tests.contract.masks import MaskContract
from tests.contract.notifications import RuleContract
from tests.contract.pages import PageContract
from tests.contract.stores import EmptyHome, StoreContract
from tests.contract.warehouses import BEATS, WORD, Filled, WarehouseContract
from tests.fhir import message, observation
from tests.hl7 import PID, adt, oru
from tests.hostile import bundle
from tests.hostile_flat import flat
from tests.services.kafka import free_port
from tests.services.postgres import PostgresServer
from vitalake import clock
from vitalake.clinical.records import code_number
from vitalake.notifications import rule_kinds
from vitalake.settings import AlertSettings

MASK_OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "round": ({"digits": 0}, {"digits": 2}),
    "cap": ({"at": 90}, {"at": 0}),
    "generalise": ({"unit": "minute"}, {"unit": "day"}, {"unit": "year"}),
}
"""Of masks that need options."""

RULE_OPTIONS: dict[str, dict[str, Any]] = {"share": AlertSettings().model_dump()}

FORMAT_MESSAGES: dict[str, dict[str, tuple[bytes, ...]]] = {
    "fhir": {
        "observation": (message(1), bundle(observation(2), observation(3, patient="p-2"))),
        "patient": (b'{"resourceType":"Patient","id":"p-1","gender":"female","birthDate":"1956-07-08"}',),
    },
    "flat:bedside-monitor": {"observation": (flat(), flat(patient="0815", hr=80))},
    "hl7-v2": {
        "observation": (oru(), oru(pv1="PV1|1|I|ICU^1^2||||||||||||||||V-9")),
        "device_association": (adt("A01", PID, "PV1|1|I|ICU^1^2"),),
    },
}
"""Formats with a profile where they need one → dataset → good messages."""

for _name, _mask in mask_kinds().items():
    _told = {"kind": _mask, "options": MASK_OPTIONS.get(_name, ({},))}
    globals()[f"TestMask{_name.title()}"] = type(f"TestMask{_name.title()}", (MaskContract,), _told)

for _name, _rule in rule_kinds().items():
    _told = {"kind": _rule, "options": RULE_OPTIONS.get(_name, {})}
    globals()[f"TestRule{_name.title()}"] = type(f"TestRule{_name.title()}", (RuleContract,), _told)

for _name, _messages in FORMAT_MESSAGES.items():
    _of = _name.partition(":")[0]
    _told = {"kind": format_kind(_of), "name": _name, "messages": _messages}
    globals()[f"TestFormat{_name.title()}"] = type(f"TestFormat{_name.title()}", (FormatContract,), _told)

for _page in registered_pages():
    _class = f"TestPage{_page.name.title()}"
    globals()[_class] = type(_class, (PageContract,), {"page": _page})


class TestWarehouseDuckdb(WarehouseContract):
    """A DuckDB file."""

    kind = duckdb_kind.WAREHOUSE
    fails = ("SELECT CAST(word AS INTEGER) FROM beats", "SELECT error(word) FROM beats")
    exports = (
        "COPY beats TO '{path}'",
        "COPY (PIVOT beats ON word USING count(*)) TO '{path}'",
        "EXPLAIN ANALYZE COPY beats TO '{path}'",
        "SELECT n FROM beats; COPY beats TO '{path}'",
        "SELECT n FROM beats) AS a; COPY beats TO '{path}'; FROM (SELECT 1",
        "EXPORT DATABASE '{path}'",
        "ATTACH '{path}' AS leak",
        "FROM enable_logging(level = 'info', storage = 'file', storage_path = '{path}')",
        "FROM enable_profiling(format = 'json', save_location = '{path}')",
        "FROM query('FROM enable_profiling(format = ''json'', save_location = ''{path}'')')",
    )

    @pytest.fixture
    def filled(self, tmp_path: Path) -> Filled:
        with duckdb.connect(str(tmp_path / "city.duckdb")) as connection:
            connection.register("given", BEATS)
            connection.execute("CREATE TABLE beats AS FROM given")
        (tmp_path / "broken.duckdb").write_bytes(WORD.encode() * 1_000)
        nowhere = ("duckdb:none.duckdb", "duckdb:no/such/folder.duckdb", "duckdb:broken.duckdb")
        return Filled(home=tmp_path, address="duckdb:city.duckdb", nowhere=nowhere)


@pytest.mark.postgres
class TestWarehousePostgresql(WarehouseContract):
    """A database of a PostgreSQL server."""

    kind = postgresql_kind.WAREHOUSE
    fails = ("SELECT CAST(word AS integer) FROM beats", "SELECT 1 / (n - 500) FROM beats ORDER BY n")
    exports = (
        "COPY beats TO '{path}'",
        "COPY beats TO PROGRAM 'cat > {path}'",
        "/* a */ -- b\n COPY beats TO '{path}'",
        "/* /* */ SELECT */ COPY beats TO '{path}'",
        "SELECT n FROM beats; COPY beats TO '{path}'",
    )

    @pytest.fixture
    def filled(self, tmp_path: Path, postgres: PostgresServer) -> Filled:
        database = f"d{uuid.uuid4().hex[:10]}"
        postgres.execute(f"CREATE DATABASE {database}")
        postgres.ingest({"beats": BEATS.to_pydict()}, database=database)
        return Filled(
            home=tmp_path,
            address=postgres.address(database=database),
            nowhere=(
                postgres.address(database=f"{database}_none"),
                postgres.address(database=database, password="Zzwrong"),
                postgres.address(database=database, port=free_port()),
            ),
            secrets=(postgres.password, "Zzwrong", "127.0.0.1", str(postgres.port), database),
            insert=lambda: postgres.execute("INSERT INTO beats VALUES (1000, 'x')", database=database),
        )


class TestStoreCare(StoreContract):
    """The online store."""

    kind = OnlineStoreOfPatients
    file = "care.db"

    def write(self, home: EmptyHome, patient: str) -> None:
        now = clock.now_us()
        rows = np.zeros(1, ROW)
        rows["code"], rows["effective_us"], rows["available_us"] = code_number("8867-4"), now, now
        rows["id"], rows["attribution"] = now, 3
        first = np.zeros(1, np.int32)
        values = Values(rows, first, [patient], np.array([now]), first, ["t/0"])
        with closing(open_online_store(home.settings, home.keys, vault=home.vault)) as store:
            store.take(values, writer="vitals/0of1", ends={"t/0": now + 1})
            store.put_facts([(patient, f"stay-{now}", 1, Admission(now, None, 70))])


class TestStoreScores(StoreContract):
    """The book of scores."""

    kind = ScoresOfPatients
    file = SCORES

    def write(self, home: EmptyHome, patient: str) -> None:
        name = uuid.uuid4().hex
        fields: dict[str, Any] = {
            "id": name, "patient": patient, "encounter": None, "as_of_us": 1, "computed_us": clock.now_us(),
            "task": "mortality", "model": "", "policy": "p", "probability": None, "abstained": "no-model",
            "news2": {}, "reasons": [], "newest_us": 1,
        }  # fmt: skip
        sealer = store_sealer(home.settings, home.keys, "scores", vault=home.vault, purpose="test")
        with closing(ScoreBook(home.settings.path(SCORES), sealer)) as book:
            book.keep(name, ScoreRecord(**fields), np.zeros(2))


def test_every_store_that_is_registered_goes_through_the_contract() -> None:
    tested = {suite.kind for suite in (TestStoreCare, TestStoreScores)}
    assert tested == {type(store) for store in personal_stores().values()}


def test_every_warehouse_that_is_registered_goes_through_the_contract() -> None:
    tested = {suite.kind.scheme for suite in (TestWarehouseDuckdb, TestWarehousePostgresql)}
    assert tested == set(registered_warehouses())


def test_every_format_that_is_registered_has_messages_to_be_tested_with() -> None:
    assert {name.partition(":")[0] for name in FORMAT_MESSAGES} == set(registered()) == set(OURS)


def test_the_project_s_own_are_among_them() -> None:
    assert {"keep", "round", "cap", "generalise", "pseudonym", "redact", "drop"} <= mask_kinds().keys()
    assert {"pause", "share"} <= rule_kinds().keys()
