"""Every mask, notification rule, format, warehouse and page that is registered goes through its contract."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import duckdb
import pytest

from governance.policy.masks import mask_kinds
from models.serving.pages.registry import registered_pages
from pipelines.formats.registry import OURS, format_kind, registered
from pipelines.history.warehouses import duckdb as duckdb_kind
from pipelines.history.warehouses import postgresql as postgresql_kind
from pipelines.history.warehouses.registry import registered as registered_warehouses
from tests.contract.formats import FormatContract
from tests.contract.masks import MaskContract
from tests.contract.notifications import RuleContract
from tests.contract.pages import PageContract
from tests.contract.warehouses import BEATS, WORD, Filled, WarehouseContract
from tests.fhir import message, observation
from tests.hl7 import PID, adt, oru
from tests.hostile import bundle
from tests.hostile_flat import flat
from tests.services.kafka import free_port
from tests.services.postgres import PostgresServer
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


def test_every_warehouse_that_is_registered_goes_through_the_contract() -> None:
    tested = {suite.kind.scheme for suite in (TestWarehouseDuckdb, TestWarehousePostgresql)}
    assert tested == set(registered_warehouses())


def test_every_format_that_is_registered_has_messages_to_be_tested_with() -> None:
    assert {name.partition(":")[0] for name in FORMAT_MESSAGES} == set(registered()) == set(OURS)


def test_the_project_s_own_are_among_them() -> None:
    assert list(mask_kinds()) == ["keep", "round", "cap", "generalise", "pseudonym", "redact", "drop"]
    assert list(rule_kinds()) == ["pause", "share"]
