"""Datasets as they are declared in YAML: those that ship with the project, and those that a home adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pyarrow as pa

from vitalake import declarations
from vitalake.declarations import Declared
from vitalake.errors import SettingsError
from vitalake.lake.datasets.dataset import (
    ASSOCIATION,
    IDENTIFYING,
    KINDS,
    MEASUREMENT,
    QUARANTINE,
    RECORD,
    TYPES,
    Column,
    Dataset,
    FhirSource,
    FormBy,
    OneOf,
)
from vitalake.strict_yaml import read_yaml

_SHIPPED = Path(str(resources.files("vitalake"))) / "datasets"

RESERVED = frozenset({"day", "device_key", "identity", "subject"})
"""Names that tables, and rows on their way there, have beside the declared columns."""

_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,59}$")]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
_Type = Literal["binary", "bool", "date", "float64", "int16", "int32", "int64", "string", "timestamp"]


class _Derived(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    completed_years: tuple[_Name, _Name]


class ColumnDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One column as it is declared; see ``Column`` for what the fields mean."""

    name: _Name
    type: _Type
    description: _Text
    data_class: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z-]{0,59}$")] | None = msgspec.field(
        name="class", default=None
    )
    statistics: bool = False
    derived: _Derived | None = None
    values: list[_Text] = []
    listed: str | None = msgspec.field(name="list", default=None)
    form: str | dict[str, str] | None = None
    token_with: _Name | None = None
    ours: Literal["always", "where-marked"] | None = None
    counts: bool | Literal["pairs"] = False
    hashed: bool = False
    fhir: _Text | None = None


class OneOfDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a published row must say."""

    columns: list[_Name]
    reason: _Name
    words: _Name


class FhirDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a FHIR feed fills the dataset."""

    resource: Annotated[str, msgspec.Meta(pattern=r"^[A-Z][A-Za-z]{1,59}$")]
    skip: _Text | None = None


class DatasetDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A dataset as it is declared; see ``Dataset`` for what the fields mean."""

    name: _Name
    kind: Literal["measurement", "association", "record", "book", "quarantine"]
    key: Annotated[list[_Name], msgspec.Meta(min_length=1)]
    columns: Annotated[list[ColumnDeclaration], msgspec.Meta(min_length=1)]
    day_of: _Name | None = None
    restricted: bool = False
    revision: Annotated[int, msgspec.Meta(ge=1)] = 1
    buckets: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    retention_days: Annotated[int, msgspec.Meta(ge=0)] = 0
    one_of: OneOfDeclaration | None = None
    ends: _Name | None = None
    fhir: FhirDeclaration | None = None


_STANDARD = """
- {name: version, type: int64, class: record-version, counts: true, description: "a higher one replaces a lower one; published: 0 and 1 as they are, of any other number the order in its record"}
- {name: patient_id, type: string, class: patient-identifier, description: "whose record it is"}
- {name: available_at, type: timestamp, class: date-of-service, ours: where-marked, description: "when all of this row could be known; published: a time of ours, or at which a system sent it, is the end of its day"}
- {name: ingested_at, type: timestamp, class: date-of-processing, ours: always, description: "when we got it; published: the end of that day"}
- {name: source, type: string, class: provenance, form: topic-partition, description: "topic[partition], or source.dataset[partition]; published without the partition"}
- {name: source_position, type: int64, class: provenance, token_with: source, description: "offset, or number in the source's order; published: a token of the message"}
"""  # noqa: E501
"""Columns that every record has; a declaration need not name them."""


def parse_dataset(document: dict[str, Any], *, where: str, text: str = "") -> Dataset:
    """Return the dataset that a YAML document declares.

    Args:
        document: what the YAML says.
        where: the file.
        text: of the file, to find lines; empty: errors name none.

    Raises:
        SettingsError: it does not have the form of one, or contradicts itself; names file, line and field.
    """
    said = declarations.convert(document, DatasetDeclaration, where=where, text=text)
    columns, one_of = [_column(entry) for entry in said.columns], said.one_of
    if said.kind == RECORD:
        names = {column.name for column in columns}
        columns += [column for column in _standard() if column.name not in names]
    dataset = Dataset(
        said.name,
        said.kind,
        tuple(columns),
        tuple(said.key),
        said.day_of,
        said.restricted or said.kind == RECORD,
        said.revision,
        buckets=said.buckets,
        retention_days=said.retention_days,
        one_of=None if one_of is None else OneOf(tuple(one_of.columns), one_of.reason, one_of.words),
        ends=said.ends,
        fhir=None if said.fhir is None else FhirSource(said.fhir.resource, said.fhir.skip),
    )
    for at, what, remedy in _contradictions(dataset):
        raise declarations.refused(what, where=where, text=text, at=at, remedy=remedy)
    return dataset


@cache
def _standard() -> tuple[Column, ...]:
    return tuple(_column(entry) for entry in msgspec.convert(read_yaml(_STANDARD), list[ColumnDeclaration]))


def _column(said: ColumnDeclaration) -> Column:
    form: str | FormBy | None
    if isinstance(said.form, dict):
        forms = dict(said.form)
        form = FormBy(forms.pop("by", ""), tuple(forms.items()))
    else:
        form = said.form
    return Column(
        name=said.name,
        type=TYPES[said.type],
        data_class=said.data_class,
        description=said.description,
        statistics=said.statistics,
        completed_years=None if said.derived is None else said.derived.completed_years,
        values=tuple(said.values),
        listed=said.listed,
        form=form,
        token_with=said.token_with,
        ours=said.ours,
        counts=bool(said.counts),
        pairs=said.counts == "pairs",
        hashed=said.hashed,
        fhir=said.fhir,
    )


_Contradiction = tuple[tuple[str | int, ...], str, str]


def _contradictions(dataset: Dataset) -> list[_Contradiction]:
    """Return what does not go together: where, what is wrong, what to do."""
    types = {column.name: column.type for column in dataset.columns}
    found: list[_Contradiction] = []

    def names(at: tuple[str | int, ...], what: str, *named: str | None) -> None:
        if not types.keys() >= {name for name in named if name is not None}:
            found.append((at, what, "Name columns of the dataset."))

    names(("key",), "Key names no column", *dataset.key)
    names(("day_of",), "day_of names no column", dataset.day_of)
    names(("ends",), "ends names no column", dataset.ends)
    if dataset.day_of in types and not pa.types.is_timestamp(types[dataset.day_of]):
        found.append((("day_of",), "day_of is no timestamp", "Name a column of times."))
    if (one_of := dataset.one_of) is not None:
        names(("one_of",), "one_of names no column", *one_of.columns, one_of.words)
        if one_of.reason not in one_of.columns:
            found.append((("one_of", "reason"), "one_of.reason is not among its columns", "Add it to them."))
    if sum(column.hashed for column in dataset.columns) > 1:
        found.append((("columns",), "Two columns are hashes of the record's name", "Declare one of them."))
    seen: set[str] = set()
    for place, column in enumerate(dataset.columns):
        at = ("columns", place)
        if column.name in seen:
            found.append(((*at, "name"), "A column stands twice", "Name each of them once."))
        seen.add(column.name)
        names(at, "Derived column lacks its source", *(column.completed_years or ()), column.token_with)
        if not _closed_once(column, types.keys()):
            remedy = "Give it values, a list or a form."
            found.append((at, "Column says in two ways which texts it may hold, or is no text", remedy))
        if column.hashed and column.type != pa.binary():
            found.append((at, "A column that is hashed is not binary", "Declare the type binary."))
    return found


def _closed_once(column: Column, names: Any) -> bool:
    given = sum(bool(way) for way in (column.values, column.listed, column.form))
    if isinstance(column.form, FormBy) and column.form.column not in names:
        return False
    return given <= 1 and (not given or column.type == pa.string())


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a declaration, for editors."""
    return msgspec.json.schema(DatasetDeclaration)


# -- which there are -------------------------------------------------------------------------------------------------


def dataset_names() -> tuple[str, ...]:
    """Return the names of the datasets: those that ship with the project, and those of the home in use."""
    return tuple(sorted(where_declared()))


def published_datasets() -> list[str]:
    """Return the names of those whose rows are published; the others are the lake's own books."""
    return [name for name in dataset_names() if not load_dataset(name).is_book]


def quarantine_datasets() -> list[str]:
    """Return the names of those that are about messages which were not published."""
    return [name for name in dataset_names() if load_dataset(name).kind == QUARANTINE]


@declarations.per_home
def load_dataset(name: str) -> Dataset:
    """Return a dataset that ships with the project, or that the home in use declares.

    Raises:
        SettingsError: none has this name, or its declaration does not hold.
    """
    found = where_declared().get(name)
    if found is None:
        raise SettingsError("Unknown dataset", where=name, remedy=f"The datasets are: {', '.join(dataset_names())}.")
    return _loaded(found)


@declarations.per_home
def where_declared() -> Mapping[str, Declared]:
    """Return where each dataset is declared: name → file.

    Raises:
        SettingsError: the home declares one that ships with the project.
    """
    shipped, own = declarations.shipped(_SHIPPED), declarations.declared("datasets", declarations.in_use())
    for name in sorted(shipped.keys() & own.keys()):
        raise SettingsError(
            "A dataset of this name ships with the project", where=own[name].where, remedy="Give yours another name."
        )
    return shipped | own


def _loaded(found: Declared) -> Dataset:
    document, text = declarations.read(found)
    kind = document.get("kind") if isinstance(document, dict) else None
    if found.of_home and kind in KINDS and kind != RECORD:
        raise declarations.refused(
            f"A home cannot declare a dataset of the kind {kind}",
            where=found.where,
            text=text,
            at=("kind",),
            remedy="Declare a record. Values with a code and a unit go to observation, devices to device_association.",
        )
    dataset = parse_dataset(document, where=found.where, text=text)
    if dataset.name != found.name:
        raise declarations.refused(
            "Dataset has another name than its file",
            where=found.where,
            text=text,
            at=("name",),
            remedy="Give both one name.",
        )
    for at, what, remedy in _foreign(dataset) if found.of_home else ():
        raise declarations.refused(what, where=found.where, text=text, at=at, remedy=remedy)
    return dataset


def _foreign(dataset: Dataset) -> list[_Contradiction]:
    """Return what a home may not declare: it would not be masked, counted or found again as rows of the project are."""
    found: list[_Contradiction] = []
    if dataset.day_of is None:
        found.append(((), "day_of is missing: rows without a day are in no partition", "Name a column of times."))
    if "version" not in dataset.key:
        found.append((("key",), "Key lacks version: a correction could not be told from what it corrects", "Add it."))
    known, standard = _of_the_project(), {column.name: column for column in _standard()}
    for place, column in enumerate(dataset.columns):
        at = ("columns", place)
        if column.name in standard and _treated(column) != _treated(standard[column.name]):
            remedy = "Leave it out, or declare it as vitalake/datasets/procedure.yaml and its neighbours do."
            found.append((at, "Column that every record has is declared in another way", remedy))
        if column.data_class is None:
            found.append((at, "Column has no class: no rule could speak of it", "Say what it is."))
        if column.name in known and known[column.name] != (column.data_class, column.type):
            remedy = (
                f"It is of the class {known[column.name][0]}, type {known[column.name][1]}; or give it another name."
            )
            found.append((at, "Column has another class or type than in the project's datasets", remedy))
        found += [(at, what, remedy) for what, remedy in _unsafe(column)]
    return found


def _unsafe(column: Column) -> Iterator[tuple[str, str]]:
    """Yield why a column of a home would be kept, published or forgotten in another way than it says."""
    data_class = column.data_class
    if column.name in RESERVED:
        yield "Column has a name that the lake uses itself", "Give it another name."
    if data_class == "patient-identifier" and column.name != "patient_id":
        # Keys, erasures, holds and the audit go by one patient a row.
        yield "Column names a second patient", "The patient is patient_id; declare anybody else's number as free-text."
    if column.type == pa.binary() and not column.hashed:
        yield "Column is binary and no hash: nothing says what it may hold", "Declare hashed, or another type."
    if data_class == "record-identifier" and not column.hashed:
        yield "A number of a record would be published in clear", "Declare the type binary and hashed."
    if column.type == pa.string() and not column.closed and data_class not in IDENTIFYING:
        yield (
            "Text that nothing holds to a set or a form would be kept in clear",
            "Give it values, a list or a form; or the class free-text, which is sealed.",
        )


def _treated(column: Column) -> Column:
    """Return what decides how a column is published."""
    return replace(column, description="", fhir=None, statistics=False)


@cache
def _of_the_project() -> dict[str, tuple[str | None, pa.DataType]]:
    """Return class and type of the columns that identify or count, wherever the project declares them."""
    shipped = [_loaded(found) for found in declarations.shipped(_SHIPPED).values()]
    counted = {column.name for column in _standard()}
    kept = [of for of in shipped if of.kind in (MEASUREMENT, ASSOCIATION, RECORD)]
    return {
        column.name: (column.data_class, column.type)
        for dataset in kept
        for column in dataset.columns
        if column.data_class in IDENTIFYING or column.name in counted
    }
