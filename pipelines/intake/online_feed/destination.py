"""The online store as the destination of one dataset's rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import pyarrow as pa

from governance.policy.masks import Pseudonyms
from governance.vault import Vault
from pipelines.online_store.facts import Fact, GivenFact, Person
from pipelines.online_store.opening import open_online_store
from pipelines.online_store.store import OnlineStore
from vitalake.clinical.held_out import held_out
from vitalake.keys import KeyRing
from vitalake.lake.commits.span import OnlineShare
from vitalake.lake.datasets.dataset import Dataset
from vitalake.settings import Settings

_log = logging.getLogger(__package__)


class Destination:
    """Opens the online store and writes facts of rows to it, under pseudonyms; used by one thread at a time.

    Attributes:
        admits_all: whether all patients go to the online store.
        again: the rows are read from the lake to fill the store again.
        epoch: of the writer of messages that were put aside before; None: they are read for the first time.
        rejected: the messages in work were rejected before and are read again; see OnlineStore.put_facts.
        opened: the store; None: it is not opened yet.
        said: what result messages said of patients and the opened store has; another store gets it again.
    """

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        keys: KeyRing,
        vault: Vault,
        *,
        share: OnlineShare,
        again: bool,
    ) -> None:
        """Prepare; see OnlineFeed for the arguments."""
        self._settings, self._keys, self._vault = settings, keys, vault
        self.admits_all = not share.held_out_only
        self.again, self.rejected = again, False
        self.epoch: int | None = None
        self._pseudonyms = {
            column.name: Pseudonyms(keys, str(column.data_class))
            for column in dataset.columns
            if column.name in ("patient_id", "encounter_id")
        }
        self.opened: OnlineStore | None = None
        self.said: dict[str, Person] = {}

    @property
    def store(self) -> OnlineStore:
        """The online store, opened at first use, and again when its file was deleted or replaced."""
        if self.opened is not None and self.opened.moved():
            _log.error(
                "online store was deleted or replaced",
                extra={"where": "settings.care.path", "remedy": "Fill the new one: vitalake lake rebuild care."},
            )
            self.close()
        if self.opened is None:
            self.opened = open_online_store(self._settings, self._keys, vault=self._vault)
        return self.opened

    def write(self, write: Callable[[OnlineStore], object]) -> None:
        """Write to the store; write again if its file was deleted or replaced meanwhile."""
        while True:
            store = self.store
            write(store)
            if not store.moved():
                return

    def close(self) -> None:
        """Close what was opened."""
        if self.opened is not None:
            self.opened.close()
        self.opened, self.said = None, {}

    def admits(self, token: str) -> bool:
        """Return whether a patient, by pseudonym, goes to the online store."""
        return self.admits_all or held_out(token)

    def tokens(self, column: str, values: pa.Array) -> list[str]:
        """Return the pseudonyms of values of ``patient_id`` or ``encounter_id``."""
        tokens: list[str] = self._pseudonyms[column](values).to_pylist()
        return tokens

    def encounter_tokens(self, rows: pa.RecordBatch) -> list[str]:
        """Return the pseudonym of each row's stay."""
        return self.tokens("encounter_id", rows["encounter_id"])

    def put(
        self,
        rows: pa.RecordBatch,
        keys: list[str],
        facts: Sequence[Fact],
        *,
        beside: Sequence[tuple[str, Fact] | None] = (),
        wait: bool = False,
    ) -> None:
        """Store a fact of each row, and in the same transaction a second fact of some rows, each with its key.

        Args:
            rows: whose patients and versions the facts have.
            keys: of the facts, within their kind.
            facts: of the rows.
            beside: key and second fact of each row; None: it has none.
            wait: see OnlineStore.put_facts.

        Raises:
            ServiceUnavailable: the store cannot be written.
        """
        patients, versions = self.tokens("patient_id", rows["patient_id"]), rows["version"].to_pylist()
        given = [*zip(patients, keys, versions, facts, strict=True)]
        given += [(patients[i], one[0], versions[i], one[1]) for i, one in enumerate(beside) if one is not None]
        admitted = [fact for fact in given if self.admits(fact[0])]
        self.write(lambda store: store.put_facts(admitted, wait=wait, again=self.again, rejected=self.rejected))

    def put_people(self, people: Sequence[GivenFact]) -> None:
        """Store what is known of patients.

        Raises:
            ServiceUnavailable: the store cannot be written.
        """
        admitted = [person for person in people if self.admits(person[0])]
        if admitted:
            self.write(lambda store: store.put_facts(admitted))
