"""The contract of a warehouse's driver: derive a class from ``WarehouseContract`` for each, as of MaskContract.

The derived class has a fixture ``filled``, which makes a warehouse of the kind in ``tmp_path`` or on a server::

    from tests.contract.warehouses import Filled, WarehouseContract

    class TestParquet(WarehouseContract):
        kind = parquet.WAREHOUSE

        @pytest.fixture
        def filled(self, tmp_path):
            ...
            return Filled(home=tmp_path, address="parquet:exports", nowhere=("parquet:no-such-folder",))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest

from pipelines.history.warehouse import Warehouse, open_warehouse
from pipelines.history.warehouses.base import WarehouseKind
from pipelines.history.warehouses.registry import REFERENCES, SCHEME
from vitalake.errors import ServiceUnavailable, SettingsError

ROWS = 1_000
"""Rows of the table ``beats`` …"""

WORD = "Zzmarker"
"""… which has the numbers from 0 in its column ``n``, and this in every row of its column ``word``."""

BEATS = pa.table({"n": pa.array(range(ROWS), pa.int64()), "word": pa.array([WORD] * ROWS, pa.string())})

_COUNT = "SELECT count(*) FROM beats"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """A warehouse that has the table ``beats``.

    Attributes:
        home: the home that paths in addresses are relative to.
        address: its address; it may contain a password.
        nowhere: addresses of what does not exist, or does not let us in; they may contain passwords.
        secrets: what no error may show, beside the addresses: passwords, hosts, users.
        insert: adds a row to ``beats`` by a connection of its own; None: nobody can write while we read.
    """

    home: Path
    address: str
    nowhere: tuple[str, ...]
    secrets: tuple[str, ...] = field(default=(), repr=False)
    insert: Callable[[], None] | None = None


class WarehouseContract:
    """What every warehouse's driver must hold to.

    Attributes:
        kind: the kind of warehouse; it is registered, as addresses are looked up by their scheme.
        fails: queries of ``beats`` that the warehouse can only refuse when it comes to a row, and would quote it.
        exports: statements by which the driver could write rows to the file ``{path}``; empty: it has none.
    """

    kind: ClassVar[WarehouseKind]
    fails: ClassVar[tuple[str, ...]] = ()
    exports: ClassVar[tuple[str, ...]] = ()

    @contextmanager
    def _opened(self, filled: Filled, address: str = "") -> Iterator[Warehouse]:
        """Open a warehouse by a reference, because its address may contain a password."""
        reference = filled.home / "address"
        reference.touch(mode=0o600)
        reference.write_text(address or filled.address)
        with open_warehouse("file:address", home=filled.home, silence_seconds=60) as warehouse:
            yield warehouse

    def _tells_nothing(self, error: BaseException, filled: Filled) -> None:
        """Hold that an error shows no value, no address and no secret, and that no error behind it does."""
        assert error.__cause__ is None and error.__suppress_context__
        beyond = [address.partition(":")[2] for address in (filled.address, *filled.nowhere)]
        for text in (WORD, *filled.secrets, *(text for text in beyond if "/" in text)):
            assert text not in str(error)

    def test_it_says_what_it_is(self) -> None:
        assert SCHEME.fullmatch(self.kind.scheme) and self.kind.scheme not in REFERENCES
        assert self.kind.description and self.kind.addresses
        assert all(form.startswith(f"{self.kind.scheme}:") for form in self.kind.addresses)

    def test_a_query_gives_its_rows_in_their_order(self, filled: Filled) -> None:
        with self._opened(filled) as warehouse:
            rows = pa.Table.from_batches(warehouse.read("SELECT n, word FROM beats ORDER BY n"))
            assert rows["n"].to_pylist() == list(range(ROWS))
            assert set(rows["word"].to_pylist()) == {WORD}
            assert warehouse.one_text(_COUNT) == str(ROWS)

    def test_a_query_is_streamed_in_batches_and_need_not_be_read_to_its_end(self, filled: Filled) -> None:
        with self._opened(filled) as warehouse:
            batches = warehouse.read("SELECT a.n, b.word, a.word AS again FROM beats a CROSS JOIN beats b")
            first = next(batches)
            assert isinstance(first, pa.RecordBatch) and 0 < first.num_rows < ROWS * ROWS
            assert first.num_rows + sum(batch.num_rows for batch in batches) == ROWS * ROWS
        with self._opened(filled) as warehouse:
            batches = warehouse.read("SELECT n FROM beats")
            next(batches)
        with self._opened(filled) as warehouse:
            assert warehouse.one_text(_COUNT) == str(ROWS)

    @pytest.mark.parametrize(
        "statement",
        [
            "INSERT INTO beats VALUES (-1, 'x')",
            "UPDATE beats SET word = 'x'",
            "DELETE FROM beats",
            "WITH gone AS (DELETE FROM beats RETURNING *) SELECT * FROM gone",
            "SELECT 1; DELETE FROM beats",
            "CREATE TABLE made AS SELECT 1 AS n",
            "DROP TABLE beats",
        ],
    )
    def test_a_write_is_refused_or_rolled_back(self, filled: Filled, statement: str) -> None:
        with suppress(ServiceUnavailable), self._opened(filled) as warehouse:
            list(warehouse.read(statement))
        with self._opened(filled) as warehouse:
            batches = list(warehouse.read("SELECT word FROM beats"))
            assert [word for batch in batches for word in batch["word"].to_pylist()] == [WORD] * ROWS
            with pytest.raises(ServiceUnavailable):
                list(warehouse.read("SELECT n FROM made"))

    def test_a_write_to_a_file_is_refused(self, filled: Filled) -> None:
        """A rollback takes no file away, and the file has every value in clear."""
        before = _files(filled.home)
        wrapped = ("{}", "SELECT 1; {}", "WITH x AS ({}) SELECT * FROM beats")
        for statement in [wrap.format(export) for export in self.exports for wrap in wrapped]:
            with (
                pytest.raises(ServiceUnavailable, match="Warehouse refuses the query"),
                self._opened(filled) as warehouse,
            ):
                list(warehouse.read(statement.format(path=filled.home / "leak.csv")))
            assert _files(filled.home) == before, statement

    def test_a_wrong_query_is_refused_and_the_error_shows_no_value_and_no_address(self, filled: Filled) -> None:
        wrong = ("SELECT Zzmarker FROM beats", "SELECT * FROM Zzmarker", "SELEC 'Zzmarker'", *self.fails)
        for query in wrong:
            with pytest.raises(ServiceUnavailable) as refused, self._opened(filled) as warehouse:
                list(warehouse.read(query))
            assert refused.value.what.startswith("Warehouse refuses the query"), query
            self._tells_nothing(refused.value, filled)

    def test_what_cannot_be_opened_is_told_without_its_address_and_nothing_is_made(self, filled: Filled) -> None:
        assert filled.nowhere, "give an address that leads nowhere"
        before = _files(filled.home)
        for address in filled.nowhere:
            with pytest.raises(ServiceUnavailable) as refused, self._opened(filled, address):
                pass
            assert refused.value.what.startswith("Warehouse cannot be opened"), "before a query is asked"
            self._tells_nothing(refused.value, filled)
        assert _files(filled.home) == before

    def test_all_queries_of_a_session_see_one_moment(self, filled: Filled) -> None:
        with self._opened(filled) as warehouse:
            counts = [warehouse.one_text(_COUNT)]
            if filled.insert is not None:
                filled.insert()
            counts.append(warehouse.one_text(_COUNT))
        assert counts == [str(ROWS)] * 2
        if filled.insert is not None:
            with self._opened(filled) as warehouse:
                assert warehouse.one_text(_COUNT) == str(ROWS + 1)

    def test_a_password_in_an_address_is_refused(self, tmp_path: Path) -> None:
        for address in (f"{self.kind.scheme}://me:{WORD}@host/x", f"{self.kind.scheme}://host/x?password={WORD}"):
            with (
                pytest.raises(SettingsError, match="Password stands") as refused,
                open_warehouse(address, home=tmp_path),
            ):
                pass
            assert WORD not in str(refused.value)


def _files(home: Path) -> set[Path]:
    return {path for path in home.rglob("*") if path.name != "address"}
