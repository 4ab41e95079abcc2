"""Writes identified rows to the online store and the vault, before the rows are masked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

import pyarrow as pa

from governance.vault import Vault
from pipelines.core.poll import Outcome
from pipelines.intake.online_feed.arrival import Arrival
from pipelines.intake.online_feed.beds import Beds
from pipelines.intake.online_feed.destination import Destination
from pipelines.intake.online_feed.observations import Observations
from pipelines.intake.online_feed.people import People
from pipelines.intake.online_feed.pregnancies import Pregnancies
from pipelines.intake.online_feed.stays import Stays
from pipelines.online_store.store import OnlineStore
from vitalake import clock
from vitalake.errors import ServiceUnavailable
from vitalake.keys import KeyRing
from vitalake.lake.commits.span import EVERYTHING, OnlineShare, PartId, Span
from vitalake.lake.datasets.dataset import Dataset
from vitalake.settings import Settings

_log = logging.getLogger(__package__)


TAKEN = frozenset({"observation", "encounter", "patient", "ward_movement", "device_association", "condition"})
"""The datasets whose rows go to the online store or the vault; their lanes write their heartbeat into the store."""


class OnlineFeed:
    """Feeds the online store and the vault with one dataset's rows; used by one thread at a time.

    Both are updated poll by poll. They can be ahead of the lake, never behind it: rows that a killed lane reads again
    are recognised by their position or version.
    """

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        keys: KeyRing,
        vault: Vault,
        *,
        share: OnlineShare = EVERYTHING,
        again: bool = False,
    ) -> None:
        """Prepare; files are opened when the first rows come.

        Args:
            settings: of the home.
            dataset: of the rows.
            keys: for pseudonyms and sealing.
            vault: the patients' identities; the caller closes it.
            share: which of the rows go to the online store.
            again: the rows are read from the lake to fill the store again (pipelines.republish.online_store). They do
                not contain everything that the messages said.
        """
        self._settings, self._dataset = settings, dataset
        self._destination = Destination(settings, dataset, keys, vault, share=share, again=again)
        arrival = Arrival(settings, dataset, self._destination)
        self._people = People(self._destination, vault)
        stays = Stays(self._destination, arrival, self._people)
        self._beds = Beds(self._destination, arrival, self._people)
        takers: dict[str, Callable[[Outcome], None]] = {
            "observation": Observations(dataset, self._destination, self._people, left_out=share.without_codes).take,
            "encounter": stays.take_encounters,
            "patient": self._people.take_records,
            "ward_movement": stays.take_movements,
            "device_association": self._beds.take,
            "condition": Pregnancies(self._destination).take,
        }
        self._taker = takers.get(dataset.name)
        """None: rows of the dataset go neither to the store nor to the vault."""

    @property
    def store(self) -> OnlineStore:
        """The online store, opened at first use, and again when its file was deleted or replaced."""
        return self._destination.store

    @property
    def older_merges(self) -> list[tuple[int, str, str]]:
        """Merges from before the hours of the store, collected while it is filled again; see Beds."""
        return self._beds.older_merges

    def take(self, outcome: Outcome, *, rejected: bool = False) -> None:
        """Write a poll's identified rows to the store and the vault.

        Args:
            outcome: of the poll.
            rejected: the messages were rejected before and are read again; see OnlineStore.put_facts.

        Raises:
            ServiceUnavailable: online store or vault cannot be written.
        """
        has_content = (
            outcome.rows.num_rows or outcome.refused is not None or outcome.newly_owned is not None or outcome.told
        )
        if has_content and self._taker is not None:
            self._destination.rejected = rejected
            self._taker(outcome)

    def report_incomplete(self, writer: str, spans: Iterable[Span]) -> None:
        """Report in the log and on the ward if the online store is new, or an older copy, and lacks rows of the lake.

        Args:
            writer: the lane, ``<job>/<i>of<n>``, whose heartbeats in the store are compared with its spans.
            spans: of its partitions, at least those of the hours that the store keeps.
        """
        since = clock.now_us() - int(self._settings.care.hours * 3_600e6)
        recent = [span for span in spans if span.decided_us >= since]
        if self._taker is None or not recent:
            return
        own = (span.decided_us for span in recent if span.kind == "stream" and f"{span.job}/{span.shard}" == writer)
        is_new = self.store.completeness.is_new()
        if is_new or self.store.completeness.is_older(writer, max(own, default=0)):
            self.store.completeness.note_incomplete()
            which = "new" if is_new else "an older copy"
            _log.error(
                f"online store is {which}, and lacks rows that the lake has",
                extra={"where": "settings.care.path", "remedy": "Fill it: vitalake lake rebuild care."},
            )

    def settle(self, ends: Mapping[PartId, int]) -> None:
        """Note how far the lake has decided partitions; can be called from any thread."""
        if self._destination.opened is not None:
            self._destination.opened.settle({part.app_id(self._dataset.name): end for part, end in ends.items()})

    def has_undecided(self, part: PartId) -> bool:
        """Return whether values of a partition are stored that were perhaps never decided; see OnlineStore."""
        return self.store.has_undecided(part.app_id(self._dataset.name))

    def known_patients(self, patients: list[str]) -> list[str]:
        """Return those of the patients, by their source ids, who are in the online store.

        Raises:
            ServiceUnavailable: it cannot be opened.
        """
        tokens = self._destination.tokens("patient_id", pa.array(patients, pa.string()))
        survivors = map(self.store.survivor, tokens)
        return [patient for patient, token in zip(patients, survivors, strict=True) if self.store.patients.has(token)]

    def reprocess(self, part: PartId, position: int, *, epoch: int) -> None:
        """Take messages that were put aside before, and delete what was taken of them and never decided.

        Args:
            part: of the writer of these messages.
            position: from which it goes on.
            epoch: of the writer.

        Raises:
            ServiceUnavailable: the online store cannot be written.
        """
        self._destination.epoch = epoch
        self.store.reprocess(part.app_id(self._dataset.name), position, epoch=epoch)

    def rewind(self, positions: Mapping[PartId, int]) -> int:
        """Delete undecided values that could belong to another patient when they are read again; see OnlineStore."""
        names = {part.app_id(self._dataset.name): position for part, position in positions.items()}
        return self.store.rewind(names)

    def beat(self, writer: str, *, ended: bool = False) -> None:
        """Record that a lane is running, or has ended by itself, if its rows go to the store.

        If the store cannot be written the lane goes on: the missing heartbeat is shown on the ward.
        """
        if self._taker is not None:
            with suppress(ServiceUnavailable):
                self._destination.write(lambda store: store.lanes.beat(writer, ended=ended))

    def look_up_all(self) -> None:
        """Store the dates of birth from the vault of all patients in the online store whose date it does not know.

        Raises:
            ServiceUnavailable: online store or vault cannot be used.
        """
        self._people.look_up(self.store.all_patients())

    def close(self) -> None:
        """Close what was opened."""
        self._destination.close()
