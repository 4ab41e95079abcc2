"""Finds rejected and held messages that name the patient, and rewrites the quarantine tables without them."""

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
from vitalake.lake.maintenance.deletion import has_value, over_newest
from vitalake.lake.maintenance.rewrite import Rows, read_file, rewrite
from vitalake.lake.maintenance.sweep import deletable_files, staged_spans
from vitalake.lake.tables.buckets import may_hold
from vitalake.lake.tables.digests import Damaged
from vitalake.lake.tables.table import Snapshot, StagedFile, Table
from vitalake.settings import Settings

_BEFORE = r"""(?i:["'/|^~&#=>]|["'](?=[a-z_]*(?:patient|subject|person|mrn|pid))[a-z_]*["']\s*:)\s*"""
_AFTER = r"""(?=["'/|^~&?#<\r\n,}\s]|$)"""
"""What stands around an identifier in JSON, a reference or HL7 v2.

After a colon a number counts only if the key before it looks like a patient's; otherwise it is a measured value."""

_ROWS = ("source", "source_position")


class Search:
    """Finds the messages that name a patient.

    A message that the formats can parse belongs to the patients whom it names:

    - It names this patient: it is removed.
    - It names another patient whom the vault knows: it stays. If that name is only a guess, one of this patient's stays
      makes it this patient's, and one of this patient's identifiers leaves the question open.
    - It names somebody whom the vault does not know: only its parts about patients are searched, see ``to_search``.

    A message that cannot be parsed, or that names nobody, is searched for the text of the identifiers, with and without
    the system before them. Here it is better to remove too much than too little, because no row can be made of such a
    message any more. In messages that can be parsed, identifiers of fewer than five characters are not searched for as
    text: they would remove other patients' messages. Messages that remain and name nobody whom the vault knows for
    certain are counted (see docs/decisions/0087-whose-a-message-is.md).

    Attributes:
        places: quarantine dataset → places of resolved messages of which rows of the patient were made, see
            ``places_of``.
        lake: whose files are searched; None: not known.
        older_spans: the spans that had staged messages when this was made.
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
        """Prepare. Call it before the fence is raised: files staged before the fence can never be decided after it.

        Args:
            identifiers: the patient's source id and record numbers.
            keys: to open the messages.
            stays: ids of the patient's stays; a message that names one of them and no patient is the patient's.
            settings: of the home: its lake, the formats of topics, and their profiles.
            vault: says whether a name is a patient's; None: every name is taken for a patient's.
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
        """Return how many messages could not be opened; a copy of one in an older file is not counted again."""
        return len(self._unreadable)

    @property
    def nameless(self) -> int:
        """Return how many messages remain that name nobody whom the vault knows; some may be the patient's."""
        return len(self._nameless)

    def names(self, payload: bytes, formats: Iterable[str] = ("",)) -> bool:
        """Return whether a message names the patient, when it is read in one of the formats that it may have."""
        return self.tells(payload, formats) is True

    def tells(self, payload: bytes, formats: Iterable[str] = ("",)) -> bool | None:
        """Return whether a message names the patient; None: the message does not settle whose it is."""
        formats = list(formats)
        found = [self._naming.whose(payload, name) for name in formats]
        named = reduce(or_, filter(None, found), Named())
        if self.is_patient_among(named.all):
            return True
        whole = None not in found
        part = to_search(payload, named, self._knows, self._numbers) if whole else payload
        if part is None and any(map(self._knows, named.proper)):
            return False
        stays = self._stays if part is not None else {stay for stay in self._stays if len(stay) >= SHORTEST}
        of_stay = stays and whole and not named.likely_ids
        if of_stay and any(not stays.isdisjoint(self._naming.stays_in(payload, name)) for name in formats):
            return True
        if part is None:  # another patient is named, but only by a guess
            is_open = not any(map(self._knows, named.all & self._numbers)) and self.has_identifier(payload, whole=whole)
            return None if is_open else False
        return True if self.has_identifier(part, whole=whole) else None

    def is_patient_among(self, named: set[str]) -> bool:
        """Return whether one of the names is the patient's."""
        return not self._wanted.isdisjoint(named)

    def has_identifier(self, payload: bytes, *, whole: bool) -> bool:
        """Return whether the text of a message contains an identifier of the patient.

        Args:
            payload: the message.
            whole: whether the message can be parsed; then only identifiers of five or more characters count.
        """
        patterns = [self._loose] if whole else [self._pattern, self._loose]
        return any(p is not None and p.search(text) for text in plain_texts(payload) for p in patterns)

    def _knows(self, name: str) -> bool:
        """Return whether a name is another patient's: one whom the vault knows, or this number in others' system."""
        if self._vault is None or self._vault.knows([name]):
            return True
        return behind_system(name) in self._numbers and system_of(name) in self._systems

    @cached_property
    def _systems(self) -> set[str]:
        """The systems of other patients' ids, without this one's; read on first use, for it opens every identity."""
        assert self._vault is not None
        mine = {"", *map(system_of, self._wanted)}
        return {system_of(who.source_id) for who in self._vault.identities()} - mine

    def among(self, rows: pa.Table, dataset: str = "") -> npt.NDArray[np.bool_]:
        """Return which of these messages are the patient's; one that cannot be opened stays, and is counted.

        Args:
            rows: encrypted messages.
            dataset: the quarantine dataset that they are from.
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
            verdict = self.tells(payload, self._formats_of(row))
            found[i] = verdict is True
            if verdict is None:
                self._nameless.add(bytes(row["nonce"]))
        return found

    def _formats_of(self, row: Mapping[str, object]) -> set[str]:
        """Return the formats of a message's topic; if no job has the topic, the decoders that rejected the message."""
        return self._formats.get(topic_of(str(row["source"]))) or set(str(row["decoder"]).split(","))


def _any_of(texts: Sequence[str]) -> str:
    return f"(?:{'|'.join(map(re.escape, texts))})"


def places_of(tables: Sequence[Table], subject: bytes) -> dict[str, Places]:
    """Return the places of resolved messages from which a patient's rows were made, by quarantine dataset.

    Such a message may name only a device: its rows were given to the patient later. Call this before the rows are
    removed.

    Args:
        tables: of the lake.
        subject: of the patient.
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
    """Return (dataset, source) → positions from which a patient's identified rows were made."""
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
    """Return which places are among these positions; a place without a dataset is looked for in all datasets."""
    held = np.zeros(rows.num_rows, np.bool_)
    for source, index in by_source(rows).items():
        positions = rows["position"].take(pa.array(index)).to_numpy()
        for (dataset, partition), known in made.items():
            if partition == source.source and source.dataset in ("", dataset):
                held[index] |= np.isin(positions, known)
    return held


def count_messages(table: Table, search: Search) -> int:
    """Return how many messages of a quarantine table's newest version are the patient's."""
    dataset = table.name.rpartition("/")[2]
    return over_newest(
        table, lambda file: sum(int(search.among(part, dataset).sum()) for part in read_file(table, file))
    )


def erase_messages(table: Table, search: Search) -> TableErased:
    """Remove the patient's messages from a quarantine table, and delete older files that hold some.

    Raises:
        LakeError, ServiceUnavailable: as ``rewrite``; safe to repeat.
    """
    match_counts: dict[str, int] = {}
    dataset = table.name.rpartition("/")[2]
    unreadable, nameless = search.unreadable, search.nameless

    def matches(file: StagedFile) -> int:
        if file.path not in match_counts:
            match_counts[file.path] = sum(int(search.among(part, dataset).sum()) for part in read_file(table, file))
        return match_counts[file.path]

    def plan(snapshot: Snapshot) -> list[StagedFile]:
        return [file for file in snapshot.files.values() if matches(file)]

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
        rows=sum(match_counts[file.path] for file in removed),
        files_searched=len(searched),
        bytes_searched=sum(file.size for file in searched),
        files_rewritten=len(removed),
        bytes_rewritten=sum(file.size for file in removed),
        files_deleted=deleted,
        unreadable=search.unreadable - unreadable,
        nameless=search.nameless - nameless,
    )


def _purge(table: Table, search: Search, dataset: str) -> int:
    """Delete the files that no version can name any more and that hold the patient's messages; return how many.

    Files staged by a writer that can still decide them are left: that writer already filters the erased patient.
    """
    deleted = 0
    spans = search.lake.spans if search.lake else None
    for path in sorted(deletable_files(table, spans, older=search.older_spans)):
        try:
            rows = table.storage.read_parquet(path)
        except (OSError, pa.ArrowException, Damaged):  # half written by a killed writer; the sweeper deletes it
            continue
        if search.among(rows, dataset).any():
            table.storage.delete(path)
            deleted += 1
    return deleted
