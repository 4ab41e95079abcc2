"""What a dataset is: the Arrow schema, data classes and partitioning that follow from its declaration."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow as pa

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

MEASUREMENT, ASSOCIATION, RECORD, BOOK, QUARANTINE = KINDS = (
    "measurement",
    "association",
    "record",
    "book",
    "quarantine",
)
"""What the rows of a dataset are: values with a code and a unit; whose the values of a device are, and when; anything
else that is told of a patient; the lake's own books; messages that were not published, and what became of them."""


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
        hashed: whether it is a 128-bit keyed hash of what the source calls the record.
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
class FhirSource:
    """How a FHIR feed fills a dataset whose columns say their FHIRPath.

    Attributes:
        resource: type of the resource that is one row.
        skip: FHIRPath of what has no row, where it is true; None: every resource has one.
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
        key: columns that name a row.
        day_of: the column whose (masked) date is the partition; None: the table is not partitioned.
        restricted: whether its rows are kept as they came too, what identifies sealed.
        revision: counts up with every change of its columns; see vitalake/lake/tables/schema.py.
        buckets: number of files by patient that closed days are put into; 0: none.
        retention_days: older days are deleted, in every zone; 0: never.
        one_of: what a published row must say; None: nothing in particular.
        ends: the column that says when what lasts has ended: the duty to keep records counts from there; None: from the
            day of its partition.
        fhir: how a FHIR feed fills it by its columns' paths; None: it does not, or by code of the format.
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

    @property
    def measures(self) -> bool:
        """Return whether its rows are values with a code and a unit."""
        return self.kind == MEASUREMENT

    @property
    def is_book(self) -> bool:
        """Return whether it is one of the lake's own, of which nothing is published."""
        return self.kind in (BOOK, QUARANTINE)

    @property
    def hashed(self) -> str | None:
        """Return the column that is a hash of what the source calls the record; None: there is none."""
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
        """Return the columns that say in which partition a message lies; published they say its topic."""
        return frozenset(column.token_with for column in self.columns if column.token_with)

    def column(self, name: str) -> Column:
        """Return one column by its name."""
        return next(c for c in self.columns if c.name == name)


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
