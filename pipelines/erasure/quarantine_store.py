"""Messages that were put aside may name the patient too: they are opened, searched, and written anew without them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, reduce
from operator import or_

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from governance.erasure.certificate import TableErased
from governance.erasure.plain_words import NOT_AFTER, NOT_BEFORE, SHORTEST, plain_texts
from governance.vault import Vault
from pipelines.core.dead_letters import open_message
from pipelines.core.open_letters import RESOLUTION, Places, by_source, topic_of
from pipelines.formats.lenient.naming import Naming
from pipelines.formats.lenient.searched import to_search
from pipelines.formats.shared.named import Named, behind_system, system_of
from vitalake.errors import PrivacyError
from vitalake.home import Home
from vitalake.keys import KeyRing
from vitalake.lake.datasets.dataset import SUBJECT
from vitalake.lake.maintenance.deletion import has_value
from vitalake.lake.maintenance.rewrite import Rows, read_file, rewrite
from vitalake.lake.maintenance.sweep import deletable_files, staged_spans
from vitalake.lake.tables.buckets import may_hold
from vitalake.lake.tables.digests import Damaged
from vitalake.lake.tables.table import Snapshot, StagedFile, Table
from vitalake.settings import Settings

_BEFORE = r"""(?i:["'/|^~&#=>]|["'](?=[a-z_]*(?:patient|subject|person|mrn|pid))[a-z_]*["']\s*:)\s*"""
_AFTER = r"""(?=["'/|^~&?#<\r\n,}\s]|$)"""
"""What stands around an identifier in JSON, a reference or HL7 v2. A number that is only somebody's value has a colon
before it, and no name of a patient before that."""

_ROWS = ("source", "source_position")


class Search:
    """Finds the messages that name a patient.

    What can be taken apart is asked whom it names; where that is somebody else whom the vault knows, it is nobody
    else's; where that is a guess, one of the stays makes it the patient's, and an identifier leaves it open. What
    cannot, or names nobody so, is searched for the text of the identifiers, and of what stands in them behind the
    system: there too much is rather taken than too little, for nothing can be made of such a message any more. Where
    decoders read somebody who may be new only what is about patients is searched, see to_search. In what can be taken
    apart, identifiers of less than five letters are not looked for so: they would take other patients' messages. What
    is left, and names nobody whom the vault knows for sure, is counted.

    Attributes:
        places: quarantine dataset → places of resolved messages that are the patient's, see places_of.
        lake: whose files are searched; None: not known.
        older_spans: that had staged messages when this was made.
    """

    def __init__(
        self,
        identifiers: Sequence[str],
        keys: KeyRing,
        *,
        stays: Iterable[str] = (),
        settings: Settings | None = None,
        vault: Vault | None = None,
    ) -> None:
        """Prepare; before the fence is raised, for what is staged by then can never be decided after it.

        Args:
            identifiers: the patient's source id and record numbers.
            keys: to open the messages.
            stays: the patient's: a message that names no patient and one of them is the patient's too.
            settings: of the home: its lake, the formats of topics, and their profiles.
            vault: knows whom messages name; None: whoever is named is taken for somebody.
        """
        self._wanted, self._stays = frozenset(filter(None, identifiers)), frozenset(filter(None, stays))
        self._numbers = frozenset(map(behind_system, self._wanted)) - {""}
        texts = sorted(self._wanted | self._numbers)
        self._pattern = re.compile(f"{_BEFORE}{_any_of(texts)}{_AFTER}") if texts else None
        long = [text for text in texts if len(text) >= SHORTEST]
        self._loose = re.compile(f"{NOT_BEFORE}{_any_of(long)}{NOT_AFTER}") if long else None
        self._keys, self._vault = keys, vault
        self._naming = Naming(settings)
        self._unreadable: set[bytes] = set()
        self._nameless: set[bytes] = set()
        self._formats: dict[str, set[str]] = defaultdict(set)
        for stream in settings.jobs.values() if settings else ():
            for topic, name in stream.topics.items():
                self._formats[topic].add(name)
        self.places: Mapping[str, Places] = {}
        self.lake = Home(settings).lake() if settings else None
        self.older_spans = staged_spans(self.lake) if self.lake else set()

    @property
    def unreadable(self) -> int:
        """Return how many envelopes could not be opened; a copy of one in an older file does not count again."""
        return len(self._unreadable)

    @property
    def nameless(self) -> int:
        """Return how many envelopes are left that name nobody known for sure, so that whose they are is open."""
        return len(self._nameless)

    def names(self, payload: bytes, formats: Iterable[str] = ("",)) -> bool:
        """Return whether a message names the patient, by one of the formats it may have."""
        return self.tells(payload, formats) is True

    def tells(self, payload: bytes, formats: Iterable[str] = ("",)) -> bool | None:
        """Return the same; None where whose it is stays open: nobody who is known is read in it, nor the patient."""
        formats = list(formats)
        found = [self._naming.whose(payload, name) for name in formats]
        named = reduce(or_, filter(None, found), Named())
        if self.wants(named.all):
            return True
        whole = None not in found
        part = to_search(payload, named, self._knows, self._numbers) if whole else payload
        if part is None and any(map(self._knows, named.proper)):
            return False
        stays = self._stays if part is not None else {stay for stay in self._stays if len(stay) >= SHORTEST}
        of_stay = stays and whole and not named.likely_ids
        if of_stay and any(not stays.isdisjoint(self._naming.stays_in(payload, name)) for name in formats):
            return True
        if part is None:  # somebody else is guessed
            told = not any(map(self._knows, named.all & self._numbers)) and self.says(payload, whole=whole)
            return None if told else False
        return True if self.says(part, whole=whole) else None

    def wants(self, named: set[str]) -> bool:
        """Return whether one of those who are named is the patient."""
        return not self._wanted.isdisjoint(named)

    def says(self, payload: bytes, *, whole: bool) -> bool:
        """Return whether the text of a message holds an identifier of the patient.

        Args:
            payload: the message.
            whole: it can be taken apart.
        """
        patterns = [self._loose] if whole else [self._pattern, self._loose]
        return any(p is not None and p.search(text) for text in plain_texts(payload) for p in patterns)

    def _knows(self, name: str) -> bool:
        """Return whether this is somebody else: the id of one, or the patient's number in the system of others."""
        if self._vault is None or self._vault.knows([name]):
            return True
        return behind_system(name) in self._numbers and system_of(name) in self._systems

    @cached_property
    def _systems(self) -> set[str]:
        """The systems of other patients' ids, and not of this one's; read when a number is met in another system."""
        assert self._vault is not None
        mine = {"", *map(system_of, self._wanted)}
        return {system_of(who.source_id) for who in self._vault.identities()} - mine

    def among(self, rows: pa.Table, dataset: str = "") -> npt.NDArray[np.bool_]:
        """Return which of these envelopes are to go; one that cannot be opened tells nobody anything, and is counted.

        Args:
            rows: envelopes.
            dataset: of the quarantine, in which they lie.
        """
        places = self.places.get(dataset)
        found = places.hold(rows) if places else np.zeros(rows.num_rows, np.bool_)
        if self._vault is not None:
            self._vault.hold_keys()
        for i, row in zip(np.flatnonzero(~found).tolist(), rows.filter(pa.array(~found)).to_pylist(), strict=True):
            try:
                payload = open_message(row, self._keys).payload
            except PrivacyError:
                self._unreadable.add(bytes(row["nonce"]))
                continue
            told = self.tells(payload, self._formats_of(row))
            found[i] = told is True
            if told is None:
                self._nameless.add(bytes(row["nonce"]))
        return found

    def _formats_of(self, row: Mapping[str, object]) -> set[str]:
        """Return the formats of an envelope's topic; of one that no job knows, what has rejected it."""
        return self._formats.get(topic_of(str(row["source"]))) or set(str(row["decoder"]).split(","))


def _any_of(texts: Sequence[str]) -> str:
    return f"(?:{'|'.join(map(re.escape, texts))})"


def places_of(tables: Sequence[Table], subject: bytes) -> dict[str, Places]:
    """Return the places of resolved messages of which a patient's rows were made, by dataset of the quarantine.

    Such a message may name a device only: its rows were given to the patient later. Ask before they are dropped.

    Args:
        tables: of the lake.
        subject: whose.
    """
    made = _positions(tables, subject)
    found: dict[str, Places] = defaultdict(Places)
    for resolution in [table for table in tables if table.name == RESOLUTION] if made else ():
        resolution.refresh()
        for file in resolution.snapshot().files.values():
            for part in read_file(resolution, file):
                mine = part.filter(pa.array(_are_at(part, made)))
                for name in mine["table"].unique().to_pylist():
                    found[name].add(mine.filter(pc.equal(mine["table"].cast(pa.string()), name)))
    return dict(found)


def _positions(tables: Sequence[Table], subject: bytes) -> dict[tuple[str, str], npt.NDArray[np.int64]]:
    """Return dataset and partition → positions of a patient's identified rows; of topics their name is kept only."""
    found: dict[tuple[str, str], list[npt.NDArray[np.int64]]] = defaultdict(list)
    for table in tables:
        zone, _, dataset = table.name.rpartition("/")
        if zone != "restricted" or not {SUBJECT.name, *_ROWS} <= set(table.dataset.schema.names):
            continue
        table.refresh()
        for file in [file for file in table.snapshot().files.values() if may_hold(file.path, subject)]:
            for part in read_file(table, file, columns=[SUBJECT.name, *_ROWS]):
                mine = part.filter(has_value(part[SUBJECT.name].combine_chunks(), {subject}))
                for source in mine["source"].unique().to_pylist():
                    of_source = mine.filter(pc.equal(mine["source"].cast(pa.string()), source))
                    found[dataset, source].append(of_source["source_position"].to_numpy())
    return {place: np.unique(np.concatenate(positions)) for place, positions in found.items()}


def _are_at(rows: pa.Table, made: Mapping[tuple[str, str], npt.NDArray[np.int64]]) -> npt.NDArray[np.bool_]:
    """Return which places are among these positions; one that says no dataset may be of any."""
    held = np.zeros(rows.num_rows, np.bool_)
    for source, index in by_source(rows).items():
        positions = rows["position"].take(pa.array(index)).to_numpy()
        for (dataset, partition), known in made.items():
            if partition == source.source and source.dataset in ("", dataset):
                held[index] |= np.isin(positions, known)
    return held


def erase_letters(table: Table, search: Search) -> TableErased:
    """Remove the messages that name the patient from a quarantine table, older versions of its files included.

    Raises:
        LakeError, ServiceUnavailable: as ``rewrite``; safe to repeat.
    """
    verdicts: dict[str, int] = {}
    dataset = table.name.rpartition("/")[2]
    unreadable, nameless = search.unreadable, search.nameless

    def hits(file: StagedFile) -> int:
        if file.path not in verdicts:
            verdicts[file.path] = sum(int(search.among(part, dataset).sum()) for part in read_file(table, file))
        return verdicts[file.path]

    def plan(snapshot: Snapshot) -> list[StagedFile]:
        return [file for file in snapshot.files.values() if hits(file)]

    def transform(rows: Rows) -> list[pa.Table]:
        kept = [part.filter(pa.array(~search.among(part, dataset))) for part in rows]
        return [pa.concat_tables(kept)] if sum(part.num_rows for part in kept) else []

    table.refresh()
    searched = table.snapshot().files.values()
    done = rewrite(table, plan, transform, data_change=True)
    removed = done.removed if done else ()
    deleted = _purge(table, search, dataset)
    return TableErased(
        table=table.name,
        rows=sum(verdicts[file.path] for file in removed),
        files_searched=len(searched),
        bytes_searched=sum(file.size for file in searched),
        files_rewritten=len(removed),
        bytes_rewritten=sum(file.size for file in removed),
        files_deleted=deleted,
        unreadable=search.unreadable - unreadable,
        nameless=search.nameless - nameless,
    )


def _purge(table: Table, search: Search, dataset: str) -> int:
    """Delete files that no version will have any more and that hold such messages; return how many.

    What a writer has staged that may still decide it is left: it knows already that the patient is forgotten.
    """
    deleted = 0
    spans = search.lake.spans if search.lake else None
    for path in sorted(deletable_files(table, spans, older=search.older_spans)):
        try:
            rows = table.storage.read_parquet(path)
        except (OSError, pa.ArrowException, Damaged):  # half written, by a writer that was killed: the sweeper's
            continue
        if search.among(rows, dataset).any():
            table.storage.delete(path)
            deleted += 1
    return deleted
