"""Lists devices with their associations and held messages; shows patients as pseudonyms unless ids are allowed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import numpy as np
import pyarrow as pa

from governance.keyuse import open_vault
from governance.policy.masks import Pseudonyms
from governance.vault.sealed_rows import device_key, open_value
from pipelines.attribution.associations import TABLE, AssociationMap
from pipelines.attribution.held import HELD
from pipelines.core.open_letters import PLACE, Choice, Places, census, open_letters, resolved
from pipelines.formats.shared.records import MERGED
from pipelines.intake.steps import Steps
from pipelines.reprocess.origins import lineages
from pipelines.reprocess.redecoding import Redecoder
from vitalake.home import Home
from vitalake.lake.datasets.dataset import SUBJECT
from vitalake.lake.tables.schema import conform
from vitalake.settings import Settings


@dataclass(slots=True)
class Device:
    """A device.

    Attributes:
        key: keyed hash by which its rows are found.
        token: its pseudonym; None: no row or message that gives its id can be unsealed.
        name: its id, as its messages give it.
        associations: how many associations are known, including ended and mistaken ones.
        held: how many messages are held.
    """

    key: bytes
    token: str | None = None
    name: str | None = field(default=None, repr=False)
    associations: int = 0
    held: int = 0


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an association; ``patient`` and ``encounter`` are pseudonyms, or source ids where allowed."""

    version: int
    status: str
    valid_from: datetime
    valid_to: datetime | None
    available_at: datetime
    patient: str | None = field(repr=False)
    encounter: str | None = field(repr=False)


class Overview:
    """Looks devices up. Nothing is written, except that a missing association table is created."""

    def __init__(self, settings: Settings) -> None:
        """Open lake and vault.

        Raises:
            PrivacyError: keys are not valid.
            ServiceUnavailable: lake or vault cannot be reached.
        """
        self._settings = settings
        self._keys = Home(settings).keys
        self._vault = open_vault(settings, self._keys, purpose="devices")
        self._lake = Home(settings).lake()
        self._key_of = partial(device_key, self._keys.current("vault").secret)
        self._tokens = {
            name: Pseudonyms(self._keys, f"{name}-identifier") for name in ("device", "patient", "encounter")
        }

    def close(self) -> None:
        """Close what was opened."""
        self._vault.close()

    # -- all -----------------------------------------------------------------------------------------------------

    def devices(self) -> list[Device]:
        """Return all devices, those with most held messages first.

        Merges of patient numbers, which the association table also holds, are left out.
        """
        devices = {key: self._named(Device(key), rows) for key, rows in self._associations().items()}
        merges = {key for key, device in devices.items() if (device.name or "").startswith(MERGED)}
        for key, count in self._held().items():
            devices.setdefault(key, Device(key)).held = count
        for key, name in self._names_of_held({key for key, d in devices.items() if key and not d.name}).items():
            devices[key].name = name
        for device in devices.values():
            device.token = None if device.name is None else self._tokens["device"].token(device.name)
        chosen = [device for key, device in devices.items() if key not in merges]
        return sorted(chosen, key=lambda device: (-device.held, device.name or "", device.key))

    def _associations(self) -> dict[bytes, pa.Table]:
        if not self._lake.storage.holds_table(TABLE):
            return {}
        associations = AssociationMap(self._lake, self._vault, self._key_of)
        associations.look()
        return associations.devices()

    def _named(self, device: Device, rows: pa.Table) -> Device:
        device.associations = len(set(rows["association_id"].to_pylist()))
        secrets = self._vault.secrets(set(rows[SUBJECT.name].to_pylist()))
        for sealed in rows["device_id"].to_pylist():
            name = None if sealed is None else open_value(sealed, secrets, context=b"device_association.device_id")
            if name is not None:
                device.name = name.decode()
                break
        return device

    # -- held ----------------------------------------------------------------------------------------------------

    def _held(self) -> Counter[bytes]:
        """Return how many messages of each device are held; messages of several devices count under an empty key."""
        counts: Counter[bytes] = Counter()
        for rows in self._open_rows():
            counts.update(key or b"" for key in rows["device_key"].to_pylist())
        return counts

    def _open_rows(self) -> list[pa.Table]:
        if not self._lake.storage.holds_table(HELD):
            return []
        table, done = self._lake.table(HELD), resolved(self._lake, HELD)
        schema = pa.schema([table.state.columns.field(name) for name in (*PLACE, "device_key")])
        found = []
        for file in table.snapshot().files.values():
            rows = conform(table.storage.read_parquet(file.path, columns=schema.names), schema)
            found.append(rows.filter(pa.array(~done.hold(rows))))
        return found

    def _names_of_held(self, keys: set[bytes]) -> dict[bytes, str]:
        """Return the names of devices that only have held messages, by opening one message of each."""
        wanted, skipped = set(keys), Places()
        for rows in self._open_rows():
            chosen = []
            for key in rows["device_key"].to_pylist():
                chosen.append(key in wanted)
                wanted -= {key}
            skipped.add(rows.filter(pa.array(~np.array(chosen, np.bool_))))
        if not keys:
            return {}
        skipped.merge(resolved(self._lake, HELD))
        names: dict[bytes, str] = {}
        known, _ = lineages(self._settings, census(self._lake, HELD).decoders, self._lake.spans.all_spans())
        for lineage in known:
            steps = Steps(self._settings, lineage.stream, self._lake.dataset, purpose="devices")
            try:
                redecoder = Redecoder(self._settings, lineage, steps, job="devices/0of1")
                for letters in open_letters(self._lake, HELD, Choice(sources=lineage.sources), done=skipped):
                    for attempt in redecoder.attempts(letters, table=HELD, mask=False):
                        devices = set(attempt.outcome.rows["device_id"].to_pylist()) - {None}
                        names |= {self._key_of(device): device for device in devices}
            finally:
                steps.close()
        return {key: names[key] for key in keys if key in names}

    # -- one -----------------------------------------------------------------------------------------------------

    def find(self, text: str) -> Device | None:
        """Return a device by its pseudonym or its id; None: no such device."""
        key = self._key_of(text)
        return next((device for device in self.devices() if text == device.token or key == device.key), None)

    def versions(self, device: Device, *, identified: bool = False) -> list[Version]:
        """Return the versions of a device's associations, ordered by beginning.

        Args:
            device: the device.
            identified: name patients and stays by their source ids; otherwise by pseudonyms.
        """
        rows = self._associations().get(device.key)
        if rows is None:
            return []
        names = {name: self._names(rows, name, identified=identified) for name in ("patient", "encounter")}
        plain = ("version", "status", "valid_from", "valid_to", "available_at")
        columns = zip(*(rows[name].to_pylist() for name in plain), names["patient"], names["encounter"], strict=True)
        return sorted((Version(*row) for row in columns), key=lambda row: (row.valid_from, row.version))

    def _names(self, rows: pa.Table, name: str, *, identified: bool) -> Sequence[str | None]:
        secrets = self._vault.secrets(set(rows[SUBJECT.name].to_pylist()))
        context = f"device_association.{name}_id".encode()
        opened = [
            None if sealed is None else open_value(sealed, secrets, context=context)
            for sealed in rows[f"{name}_id"].to_pylist()
        ]
        names = [None if value is None else value.decode() for value in opened]
        token = self._tokens[name].token
        return names if identified else [None if value is None else token(value) for value in names]
