"""What a dataset is: declared once in YAML; the Arrow schema, data classes and partitioning follow from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa

from vitalake.errors import SettingsError
from vitalake.strict_yaml import read_yaml

TYPES: dict[str, pa.DataType] = {
    "binary": pa.binary(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "float64": pa.float64(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "string": pa.string(),
    "timestamp": pa.timestamp("us", "UTC"),
}
"""The types a dataset's YAML may name."""

ALWAYS, MARKED = "always", "where-marked"
"""What a dataset says of a column of times: all are of our own clocks, or those that are marked; see own_times.py."""

QUARANTINE = ("dead_letter", "held", "resolution")
"""Datasets of messages that were not published, and of what became of them later."""

_FOLDER = Path(str(resources.files("vitalake"))) / "datasets"


@dataclass(frozen=True, slots=True)
class FormBy:
    """The form of a column's values, by what another column of the row says.

    Attributes:
        column: the other one.
        forms: its value → the form; beside any other value nothing fits.
    """

    column: str
    forms: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        name, type: its name and Arrow type.
        data_class: what it *is*; without one it is not published.
        description: for people.
        statistics: whether min and max may stand in files and log.
        completed_years: where it is null, the years from the first of these columns to the second; None: not derived.
        values: the closed set of its values; empty: not closed.
        listed: the list of the home's rules that its values stand in; None: in none.
        form: the form its values have (see vitalake/vocabulary/forms.yaml), or the form by another column's value.
        token_with: of a position: the column of its partition, with which it is published as a token, and which is
            published without the partition; see message_tokens.py.
        ours: of a time: whether all are of our own clocks or those that are marked; see own_times.py. None: none is.
        counts: of a version: whether it is published as a number that keeps the order within its record only; see
            record_versions.py.
        pairs: of one that counts: whether its last bit says something else, and is published as it is.
    """

    name: str
    type: pa.DataType
    data_class: str | None
    description: str
    statistics: bool = False
    completed_years: tuple[str, str] | None = None
    values: tuple[str, ...] = ()
    listed: str | None = None
    form: str | FormBy | None = None
    token_with: str | None = None
    ours: str | None = None
    counts: bool = False
    pairs: bool = False

    @property
    def closed(self) -> bool:
        """Return whether it is said which texts it may hold: text that is published as it came must be closed."""
        return bool(self.values or self.listed or self.form)


@dataclass(frozen=True, slots=True)
class OneOf:
    """Columns of which every published row has at least one, the reason why it has no other among them.

    Attributes:
        columns: these columns.
        reason: the one of them that says why there is no other.
        words: the column of words, which are mostly not published; then the reason is that it is as text.
    """

    columns: tuple[str, ...]
    reason: str
    words: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """A declared dataset.

    Attributes:
        name: also the name of its table.
        columns: in order; the partition column ``day`` is not among them.
        key: columns that name a row.
        day_of: the column whose (masked) date is the partition; None: the table is not partitioned.
        restricted: whether its rows are kept as they came too, what identifies sealed.
        revision: counts up with every change of its columns; see vitalake/lake/tables/schema.py.
        buckets: number of files by patient that closed days are put into; 0: none.
        retention_days: older days are deleted, in every zone; 0: never.
        one_of: what a published row must say; None: nothing in particular.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    day_of: str | None
    restricted: bool = False
    revision: int = 1
    buckets: int = 0
    retention_days: int = 0
    one_of: OneOf | None = None

    @property
    def schema(self) -> pa.Schema:
        """Return the Arrow schema of its rows, without the partition column."""
        return pa.schema([pa.field(c.name, c.type) for c in self.columns])

    @property
    def table_schema(self) -> pa.Schema:
        """Return the schema of its table, the partition column ``day`` last."""
        return self.schema.append(pa.field("day", pa.date32())) if self.day_of else self.schema

    @property
    def sources(self) -> frozenset[str]:
        """Return the columns that say in which partition a message lies; published they say its topic."""
        return frozenset(column.token_with for column in self.columns if column.token_with)

    def column(self, name: str) -> Column:
        """Return one column by its name."""
        return next(c for c in self.columns if c.name == name)


def parse_dataset(document: dict[str, Any], *, where: str) -> Dataset:
    """Return the dataset that a YAML document declares.

    Raises:
        SettingsError: a field is missing or a type unknown.
    """
    try:
        columns = tuple(
            Column(
                name=entry["name"],
                type=TYPES[entry["type"]],
                data_class=entry.get("class"),
                description=entry["description"],
                statistics=bool(entry.get("statistics", False)),
                completed_years=_pair(entry.get("derived", {}).get("completed_years")),
                values=tuple(entry.get("values", ())),
                listed=entry.get("list"),
                form=_form(entry.get("form")),
                token_with=entry.get("token_with"),
                ours=entry.get("ours"),
                counts=entry.get("counts") in (True, "pairs"),
                pairs=entry.get("counts") == "pairs",
            )
            for entry in document["columns"]
        )
        dataset = Dataset(
            document["name"],
            columns,
            tuple(document["key"]),
            document.get("day_of"),
            document.get("restricted") is True,
            int(document.get("revision", 1)),
            buckets=int(document.get("buckets", 0)),
            retention_days=int(document.get("retention_days", 0)),
            one_of=_one_of(document.get("one_of")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SettingsError(f"Dataset declaration lacks or misnames {error}", where=where, remedy="Mend it.") from None
    names = {c.name for c in columns}
    sources = {name for c in columns for name in c.completed_years or ()}
    one_of = dataset.one_of
    if one_of and not names.issuperset({*one_of.columns, one_of.words}):
        raise SettingsError("one_of names no column", where=where, remedy="Name columns of the dataset.")
    sources |= {c.token_with for c in columns if c.token_with}
    if not names.issuperset(sources):
        raise SettingsError("Derived column lacks its source", where=where, remedy="Name columns of the dataset.")
    if any(not _closed_once(c, names) for c in columns):
        raise SettingsError(
            "Column says in two ways which texts it may hold, or is no text",
            where=where,
            remedy="Give it values, a list or a form.",
        )
    if len(names) != len(columns) or not names.issuperset(dataset.key) or (dataset.day_of or "") not in names | {""}:
        raise SettingsError("Dataset declaration contradicts itself", where=where, remedy="Check key and day_of.")
    return dataset


def _form(entry: str | dict[str, str] | None) -> str | FormBy | None:
    if not isinstance(entry, dict):
        return entry
    forms = dict(entry)
    return FormBy(forms.pop("by"), tuple(forms.items()))


def _closed_once(column: Column, names: set[str]) -> bool:
    given = sum(bool(way) for way in (column.values, column.listed, column.form))
    if isinstance(column.form, FormBy) and column.form.column not in names:
        return False
    return given <= 1 and (not given or column.type == pa.string())


def _one_of(entry: dict[str, Any] | None) -> OneOf | None:
    if entry is None:
        return None
    columns = tuple(entry["columns"])
    if entry["reason"] not in columns:
        raise ValueError("one_of.reason")
    return OneOf(columns, entry["reason"], entry["words"])


def _pair(names: list[str] | None) -> tuple[str, str] | None:
    if names is None:
        return None
    first, second = names
    return first, second


IDENTIFYING = frozenset(
    {
        "patient-identifier", "encounter-identifier", "device-identifier", "medical-record-number", "free-text",
        "name", "address", "date-of-birth",
    }
)  # fmt: skip
"""Data classes whose values are sealed, one by one, where identified rows are kept."""


def holds_codes(column: Column) -> bool:
    """Return whether a column holds codes in clear where rows are identified, and what are none sealed."""
    return column.closed and column.data_class not in IDENTIFYING and column.data_class != "provenance"


SUBJECT = Column("subject", pa.binary(), "subject", "keyed hash of the patient: whose key the sealed values need")
DEVICE_KEY = Column("device_key", pa.binary(), "subject", "keyed hash of the device")


def restricted_form(dataset: Dataset) -> Dataset:
    """Return what a dataset's table looks like in the restricted zone.

    First the keyed hashes by which rows of a patient, or of a device, are found; then its own columns, binary where
    they hold sealed values. Nothing has statistics but what has them in the published form and is not sealed.
    """
    sealed = {column.name for column in dataset.columns if column.data_class in IDENTIFYING}
    columns = tuple(
        replace(column, type=pa.binary(), statistics=False, values=(), listed=None, form=None)
        if column.name in sealed
        else column
        for column in dataset.columns
    )
    found_by = (
        (SUBJECT, DEVICE_KEY) if any(c.data_class == "device-identifier" for c in dataset.columns) else (SUBJECT,)
    )
    return replace(dataset, columns=(*found_by, *columns))


def table_form(dataset: Dataset, zone: str) -> Dataset:
    """Return what a dataset's table looks like in a zone."""
    return restricted_form(dataset) if zone == "restricted" else dataset


@cache
def dataset_names() -> tuple[str, ...]:
    """Return the names of the datasets that ship with the project."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def published_datasets() -> list[str]:
    """Return the names of those whose rows are published; the others are the lake's own books."""
    return [name for name in dataset_names() if not is_book(name)]


def is_book(name: str) -> bool:
    """Return whether a dataset is one of the lake's own books, of which nothing is published."""
    return name == "spans" or name in QUARANTINE


def quarantine_datasets() -> list[str]:
    """Return the names of those that are about messages which were not published."""
    return [name for name in dataset_names() if name in QUARANTINE]


@cache
def load_dataset(name: str) -> Dataset:
    """Return a dataset that ships with the project.

    Raises:
        SettingsError: none has this name.
    """
    if name not in dataset_names():
        raise SettingsError("Unknown dataset", where=name, remedy=f"The datasets are: {', '.join(dataset_names())}.")
    path = _FOLDER / f"{name}.yaml"
    return parse_dataset(read_yaml(path.read_text()), where=path.name)
