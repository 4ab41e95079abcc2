"""A dataset: the Arrow schema, data classes and partitioning that follow from its declaration."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pyarrow as pa

from vitalake.errors import SettingsError
from vitalake.lake.datasets.classes import CLASSES

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
"""Which times of a column are of our own clocks: all of them, or those that are marked; see own_times.py."""

MEASUREMENT, ASSOCIATION, RECORD, BOOK, QUARANTINE = KINDS = (
    "measurement",
    "association",
    "record",
    "book",
    "quarantine",
)
"""What the rows of a dataset are: values with a code and a unit; which patient a device was with, and when; any other
record of a patient; the lake's own records; messages that were not published, and their resolutions."""


@dataclass(frozen=True, slots=True)
class FormBy:
    """The form of a column's values, chosen by the value of another column of the row.

    Attributes:
        column: the other column.
        forms: its value → the form; with any other value no text fits.
    """

    column: str
    forms: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        name, type: its name and Arrow type.
        data_class: the kind of data, which the rules speak of; a column without one is not published.
        description: for people.
        statistics: whether the column's minimum and maximum may stand in files and log.
        completed_years: two columns; where this one is null, it becomes the completed years from the first to the
            second. None: it is not derived.
        values: the closed set of its values; empty: no closed set.
        listed: the list of the home's rules that holds its values; None: no list.
        form: the form of its values (see vitalake/vocabulary/forms.yaml), or the form by another column's value.
        token_with: for a position: the column of its partition. The position is published as a token made with that
            column, and that column is published without the partition; see message_tokens.py.
        ours: for a time: whether all times are of our own clocks, or those that are marked; see own_times.py. None: no
            time is ours.
        counts: for a version: whether it is published as a number that keeps only the order within its record; see
            record_versions.py.
        pairs: for a column that counts: whether its last bit has a meaning of its own and is published as it is.
        hashed: whether it is a 128-bit keyed hash of the source's name for the record.
        fhir: FHIRPath of its value in the dataset's resource; None: a FHIR feed does not fill it.
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
    hashed: bool = False
    fhir: str | None = None

    @property
    def closed(self) -> bool:
        """Return whether the texts it may hold are declared; only such text may be published as it came."""
        return bool(self.values or self.listed or self.form)


@dataclass(frozen=True, slots=True)
class OneOf:
    """Columns of which every published row has at least one; one of them is the reason why the others are null.

    Attributes:
        columns: these columns, the reason among them.
        reason: the column that says why the others are null.
        words: the column of free text, which is mostly not published. A row that has only such text is published with
            the reason "as text".
    """

    columns: tuple[str, ...]
    reason: str
    words: str


@dataclass(frozen=True, slots=True)
class FhirSource:
    """How a FHIR feed fills a dataset whose columns say their FHIRPath.

    Attributes:
        resource: type of the resource; each resource gives one row.
        skip: FHIRPath; a resource for which it is true gives no row. None: every resource gives one.
    """

    resource: str
    skip: str | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """A declared dataset.

    Attributes:
        name: also the name of its table.
        kind: what its rows are: one of KINDS.
        columns: in order; the partition column ``day`` is not among them.
        key: columns that identify a row.
        day_of: the column whose (masked) date is the partition; None: the table is not partitioned.
        restricted: whether its rows are also kept as they came, with identifying values sealed.
        revision: counts up with every change of its columns; see vitalake/lake/tables/schema.py.
        buckets: number of files by patient into which the rows of a closed day are sorted; 0: no buckets.
        retention_days: days that are older are deleted, in every zone; 0: never.
        one_of: columns of which a published row must have at least one; None: no such rule.
        ends: the column with the end of what lasts, such as a stay: the duty to keep records counts from there. None:
            it counts from the day of the partition.
        fhir: how a FHIR feed fills it by its columns' paths; None: no FHIR feed does, or code of the format does.
        refused_if_new: why no table is made for it. A table that an earlier release made is still used: a home must be
            able to read it, and to erase patients from it. None: a table is made.
    """

    name: str
    kind: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    day_of: str | None
    restricted: bool = False
    revision: int = 1
    buckets: int = 0
    retention_days: int = 0
    one_of: OneOf | None = None
    ends: str | None = None
    fhir: FhirSource | None = None
    refused_if_new: SettingsError | None = field(default=None, compare=False, repr=False)

    @property
    def measures(self) -> bool:
        """Return whether its rows are values with a code and a unit."""
        return self.kind == MEASUREMENT

    @property
    def is_book(self) -> bool:
        """Return whether it holds the lake's own records, which are never published."""
        return self.kind in (BOOK, QUARANTINE)

    @property
    def hashed(self) -> str | None:
        """Return the column that is a hash of the source's name for the record; None: there is none."""
        return next((column.name for column in self.columns if column.hashed), None)

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
        """Return the columns that name a message's partition; published rows name only the topic."""
        return frozenset(column.token_with for column in self.columns if column.token_with)

    @property
    def published_key(self) -> tuple[str, ...]:
        """Return the columns that identify a published row."""
        return (*self.key, *(column.name for column in self.columns if column.name == UNFIT_KEY.name))

    def column(self, name: str) -> Column:
        """Return one column by its name."""
        return next(c for c in self.columns if c.name == name)


IDENTIFYING = frozenset(name for name, of in CLASSES.items() if of.sealed)
"""Data classes whose values are sealed, one by one, in the restricted zone."""


def says_status(column: Column) -> bool:
    """Return whether a column ``status`` is declared so that no status is lost: of its class, with its values."""
    return column.data_class == "record-version" and bool(column.values)


def holds_codes(dataset: Dataset, column: Column) -> bool:
    """Return whether the restricted zone keeps a column's codes in clear, and seals any text that is not a code.

    A message's source is none: the lake writes it itself, whatever a sender or a query gives.
    """
    return column.closed and column.data_class not in IDENTIFYING and column.name not in dataset.sources


UNFIT_KEY = Column(
    "unfit_key",
    pa.binary(),
    "record-identifier",
    "keyed hash of the record's key, where a text of the key does not fit and is not published; else null",
)
"""The last column of a dataset whose key has closed text: made when rows are published, part of their key."""

SUBJECT = Column("subject", pa.binary(), "subject", "keyed hash of the patient: whose key the sealed values need")
DEVICE_KEY = Column("device_key", pa.binary(), "subject", "keyed hash of the device")


def restricted_form(dataset: Dataset) -> Dataset:
    """Return the dataset as its table in the restricted zone has it.

    The first columns are the keyed hashes by which the rows of a patient, or of a device, are found. The dataset's own
    columns follow, binary where they hold sealed values. A sealed column has no statistics.
    """
    sealed = {column.name for column in dataset.columns if column.data_class in IDENTIFYING}
    columns = tuple(
        replace(column, type=pa.binary(), statistics=False, values=(), listed=None, form=None)
        if column.name in sealed
        else column
        for column in dataset.columns
    )
    hashes = (SUBJECT, DEVICE_KEY) if any(c.data_class == "device-identifier" for c in dataset.columns) else (SUBJECT,)
    return replace(dataset, columns=(*hashes, *columns))


def table_form(dataset: Dataset, zone: str) -> Dataset:
    """Return the dataset as its table in a zone has it."""
    return restricted_form(dataset) if zone == "restricted" else dataset
