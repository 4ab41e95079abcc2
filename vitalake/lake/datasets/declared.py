"""Datasets declared in YAML: those that ship with the project, and those that a home adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pyarrow as pa

from vitalake import declarations
from vitalake.declarations import END, Declared
from vitalake.errors import SettingsError
from vitalake.lake.datasets.classes import CLASSES, nearest
from vitalake.lake.datasets.dataset import (
    ASSOCIATION,
    IDENTIFYING,
    KINDS,
    MEASUREMENT,
    QUARANTINE,
    RECORD,
    TYPES,
    UNFIT_KEY,
    Column,
    Dataset,
    FhirSource,
    FormBy,
    OneOf,
    says_status,
)
from vitalake.lake.datasets.names import MADE, OWN_COLUMNS, SQL_WORDS, taken
from vitalake.strict_yaml import read_yaml
from vitalake.vocabulary.forms import CODED_VALUE, OF_VOCABULARY, load_forms, refusal_of
from vitalake.vocabulary.home import refused_systems

_SHIPPED = Path(str(resources.files("vitalake"))) / "datasets"

MOST_DAYS = date(2000, 1, 1).toordinal()
"""The most days that a dataset can keep its rows: so many days before today there is still a date."""

_MOST_REVISIONS = 1_000_000

_Name = Annotated[str, msgspec.Meta(pattern=rf"^[a-z][a-z0-9_]{{0,59}}{END}")]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
_Class = Annotated[str, msgspec.Meta(pattern=rf"^[a-z][a-z-]{{0,59}}{END}", extra_json_schema={"enum": list(CLASSES)})]
_Type = Literal["binary", "bool", "date", "float64", "int16", "int32", "int64", "string", "timestamp"]


class _Derived(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    completed_years: tuple[_Name, _Name]


class ColumnDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The declaration of one column; see ``Column`` for the meaning of the fields."""

    name: _Name
    type: _Type
    description: _Text
    data_class: _Class | None = msgspec.field(name="class", default=None)
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
    """The declaration of columns of which a published row must have at least one; see ``OneOf``."""

    columns: list[_Name]
    reason: _Name
    words: _Name


class FhirDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The declaration of how a FHIR feed fills the dataset; see ``FhirSource``."""

    resource: Annotated[str, msgspec.Meta(pattern=rf"^[A-Z][A-Za-z]{{1,59}}{END}")]
    skip: _Text | None = None


class DatasetDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The declaration of a dataset; see ``Dataset`` for the meaning of the fields."""

    name: _Name
    kind: Literal["measurement", "association", "record", "book", "quarantine"]
    key: Annotated[list[_Name], msgspec.Meta(min_length=1)]
    columns: Annotated[list[ColumnDeclaration], msgspec.Meta(min_length=1)]
    day_of: _Name | None = None
    restricted: bool = False
    revision: Annotated[int, msgspec.Meta(ge=1, le=_MOST_REVISIONS)] = 1
    buckets: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    retention_days: Annotated[int, msgspec.Meta(ge=0, le=MOST_DAYS)] = 0
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
        document: the parsed YAML.
        where: the file.
        text: the text of the file, to find lines; empty: errors name no line.

    Raises:
        SettingsError: the document does not have the form of a declaration, or contradicts itself; the error names
            file, line and field.
    """
    declared = declarations.convert(document, DatasetDeclaration, where=where, text=text)
    columns, one_of = [_column(entry) for entry in declared.columns], declared.one_of
    if declared.kind == RECORD:
        names = {column.name for column in columns}
        columns += [column for column in _standard() if column.name not in names]
        if any(column.closed for column in columns if column.name in declared.key):
            columns.append(UNFIT_KEY)
    dataset = Dataset(
        declared.name,
        declared.kind,
        tuple(columns),
        tuple(declared.key),
        declared.day_of,
        declared.restricted or declared.kind == RECORD,
        declared.revision,
        buckets=declared.buckets,
        retention_days=declared.retention_days,
        one_of=None if one_of is None else OneOf(tuple(one_of.columns), one_of.reason, one_of.words),
        ends=declared.ends,
        fhir=None if declared.fhir is None else FhirSource(declared.fhir.resource, declared.fhir.skip),
    )
    for at, what, remedy in _contradictions(dataset):
        raise declarations.refused(what, where=where, text=text, at=at, remedy=remedy)
    return dataset


@cache
def _standard() -> tuple[Column, ...]:
    return tuple(_column(entry) for entry in msgspec.convert(read_yaml(_STANDARD), list[ColumnDeclaration]))


def _column(declared: ColumnDeclaration) -> Column:
    form: str | FormBy | None
    if isinstance(declared.form, dict):
        forms = dict(declared.form)
        form = FormBy(forms.pop("by", ""), tuple(forms.items()))
    else:
        form = declared.form
    return Column(
        name=declared.name,
        type=TYPES[declared.type],
        data_class=declared.data_class,
        description=declared.description,
        statistics=declared.statistics,
        completed_years=None if declared.derived is None else declared.derived.completed_years,
        values=tuple(declared.values),
        listed=declared.listed,
        form=form,
        token_with=declared.token_with,
        ours=declared.ours,
        counts=bool(declared.counts),
        pairs=declared.counts == "pairs",
        hashed=declared.hashed,
        fhir=declared.fhir,
    )


_Contradiction = tuple[tuple[str | int, ...], str, str]


def _contradictions(dataset: Dataset) -> list[_Contradiction]:
    """Return the contradictions within a declaration: where, what is wrong, what to do."""
    columns = {column.name: column for column in dataset.columns}
    types = {column.name: column.type for column in dataset.columns}
    problems: list[_Contradiction] = []

    def check_names(at: tuple[str | int, ...], what: str, *named: str | None) -> None:
        if not types.keys() >= {name for name in named if name is not None}:
            problems.append((at, what, "Name columns of the dataset."))

    check_names(("key",), "Key names an unknown column", *dataset.key)
    check_names(("day_of",), "day_of names an unknown column", dataset.day_of)
    check_names(("ends",), "ends names an unknown column", dataset.ends)
    for field, name in (("day_of", dataset.day_of), ("ends", dataset.ends)):
        if name in types and not pa.types.is_timestamp(types[name]):
            problems.append(((field,), f"{field} is not a timestamp", "Name a column of times."))
    if (one_of := dataset.one_of) is not None:
        check_names(("one_of",), "one_of names an unknown column", *one_of.columns, one_of.words)
        if one_of.reason not in one_of.columns:
            problems.append((("one_of", "reason"), "one_of.reason is not among its columns", "Add it to them."))
        if one_of.reason in columns and not _open_text(columns[one_of.reason]):
            remedy = "Name a column of type string whose class is not sealed."
            problems.append((("one_of", "reason"), "one_of.reason is not a text that can be published", remedy))
    if sum(column.hashed for column in dataset.columns) > 1:
        problems.append((("columns",), "Two columns are hashes of the record's name", "Declare one of them only."))
    seen: set[str] = set()
    for place, column in enumerate(dataset.columns):
        at = ("columns", place)
        if column.name in seen:
            problems.append(((*at, "name"), "A column is declared twice", "Declare each column once."))
        seen.add(column.name)
        check_names(at, "Derived column lacks its source", *(column.completed_years or ()), column.token_with)
        if column.data_class is not None and column.data_class not in CLASSES:
            problems.append(((*at, "class"), "Class is not known", f"Correct it. {nearest(column.data_class)}"))
        problems += [((*at, *field), what, remedy) for field, what, remedy in _misclosed(column, columns)]
        if column.hashed and column.type != pa.binary():
            problems.append((at, "A column that is hashed is not binary", "Declare the type binary."))
        problems += [(at, what, remedy) for what, remedy in _misfits(column, columns)]
    return problems


def _misfits(column: Column, columns: Mapping[str, Column]) -> Iterator[tuple[str, str]]:
    """Yield which fields of a column do not fit its type or class, or those of the columns that they name."""
    if column.token_with is not None and (
        column.type != pa.int64() or (other := columns.get(column.token_with)) is None or other.type != pa.string()
    ):
        yield "token_with is not of a number and a text", "Declare the type int64, and name a column of type string."
    if column.ours is not None and not pa.types.is_timestamp(column.type):
        yield "ours is of a column without times", "Declare the type timestamp, or leave ours out."
    if column.counts and column.type != pa.int64():
        yield "counts is of a column without whole numbers", "Declare the type int64, or leave counts out."
    if column.hashed and column.data_class in IDENTIFYING:
        yield "A column that is hashed has a class that is sealed", "Give it the class record-identifier."
    if column.data_class == "age" and not _is_number(column.type):
        yield "An age is not a number: no rule could cap it", "Declare the type int64, or give it another class."
    if column.data_class in _ENCODED and column.type != pa.string():
        yield "A number of a patient, a stay or a device is not text", "Declare the type string."
    if column.completed_years is not None:
        yield from _misfits_of_derived(column, [columns[name] for name in column.completed_years if name in columns])


_ENCODED = frozenset({"patient-identifier", "encounter-identifier", "device-identifier"})
"""Classes whose values are looked up by keyed hashes of their text."""


def _misfits_of_derived(column: Column, sources: Sequence[Column]) -> Iterator[tuple[str, str]]:
    if not all(pa.types.is_temporal(source.type) for source in sources):
        yield "completed_years names a column without times", "Name two columns of type date or timestamp."
    if not pa.types.is_integer(column.type):
        yield "Completed years are not a whole number", "Declare the type int64."
    sealed = any(source.data_class in IDENTIFYING for source in sources)
    if sealed and column.data_class != "age" and column.data_class not in IDENTIFYING:
        yield "An age has another class: it would be published as it is", "Give it the class age, which rules cap."


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _open_text(column: Column) -> bool:
    """Return whether a column is text that is not sealed."""
    return column.type == pa.string() and column.data_class not in IDENTIFYING


def _misclosed(column: Column, columns: Mapping[str, Column]) -> Iterator[_Contradiction]:
    """Yield why what a column says of the texts that it may hold does not hold; the place is within the column."""
    given = [
        name
        for name, way in (("values", column.values), ("list", column.listed), ("form", column.form))
        if way is not None and way != ()
    ]
    if len(given) > 1:
        yield (given[1],), "Column says in two ways which texts it may hold", f"Keep one of {' and '.join(given)}."
    if given and column.type != pa.string():
        remedy = f"Declare the type string, or leave {given[0]} out."
        yield (given[0],), "Column says which texts it may hold, and is not text", remedy
    if not isinstance(column.form, FormBy):
        return
    other = columns.get(column.form.column)
    if other is None or other.type != pa.string() or other.name == column.name:
        texts = ", ".join(name for name, of in columns.items() if of.type == pa.string() and name != column.name)
        yield ("form", "by"), "form.by does not name a text column", f"Name another column: {texts or 'there is none'}."
    if not column.form.forms:
        remedy = f"Write them, such as {{by: {column.form.column or 'OTHER_COLUMN'}, VALUE: FORM}}."
        yield ("form",), "form names no value of the other column, so that no text would fit", remedy


def place_of(column: Column, field: str) -> str | None:
    """Return file and line of a field of a column that the home in use declares; None: the home does not declare it."""
    for found in where_declared().values():
        if not found.of_home or column not in load_dataset(found.name).columns:
            continue
        document, text = declarations.read(found)
        place = next((i for i, one in enumerate(document["columns"]) if one["name"] == column.name), None)
        if place is not None:
            return declarations.refused("", where=found.where, text=text, at=("columns", place, field)).where
    return None


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a declaration, for editors."""
    return msgspec.json.schema(DatasetDeclaration)


# -- names and files ---------------------------------------------------------------------------------------------


def dataset_names() -> tuple[str, ...]:
    """Return the names of the datasets: those that ship with the project, and those of the home in use."""
    return tuple(sorted(where_declared()))


def published_datasets() -> list[str]:
    """Return the names of the datasets whose rows are published; the others hold the lake's own records."""
    return [name for name in dataset_names() if not load_dataset(name).is_book]


def quarantine_datasets() -> list[str]:
    """Return the names of the datasets about messages that were not published."""
    return [name for name in dataset_names() if load_dataset(name).kind == QUARANTINE]


@declarations.per_home
def load_dataset(name: str) -> Dataset:
    """Return a dataset that ships with the project, or that the home in use declares.

    Raises:
        SettingsError: no dataset has this name, or its declaration is not valid.
    """
    found = where_declared().get(name)
    if found is None:
        raise SettingsError("Unknown dataset", where=name, remedy=f"The datasets are: {', '.join(dataset_names())}.")
    dataset = _loaded(found)
    return dataset if dataset.refused_if_new else replace(dataset, refused_if_new=next(_refused_forms(dataset), None))


@declarations.per_home
def where_declared() -> Mapping[str, Declared]:
    """Return the file that declares each dataset, by name.

    Raises:
        SettingsError: the home declares a dataset that ships with the project.
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
            "The dataset's name differs from its file's name",
            where=found.where,
            text=text,
            at=("name",),
            remedy="Give the dataset and its file the same name.",
        )
    if not found.of_home:
        return dataset
    for at, what, remedy in _home_problems(dataset):
        raise declarations.refused(what, where=found.where, text=text, at=at, remedy=remedy)
    for at, what, remedy in _problems_of_new(dataset):
        why = declarations.refused(what, where=found.where, text=text, at=at, remedy=remedy)
        return replace(dataset, refused_if_new=why)
    return dataset


def _home_problems(dataset: Dataset) -> list[_Contradiction]:
    """Return what a home may not declare, because such rows could not be masked, counted or erased like others."""
    problems: list[_Contradiction] = []
    columns = {column.name: column for column in dataset.columns}
    if why := taken(dataset.name):
        problems.append((("name",), f"The dataset's name {why}", _OTHER_NAME))
    if dataset.day_of is None:
        problems.append(((), "day_of is missing: rows without a day are in no partition", "Name a column of times."))
    elif columns[dataset.day_of].data_class in IDENTIFYING:
        remedy = "Name a column of another class: the names of files would say it."
        problems.append((("day_of",), "day_of has a class that is sealed", remedy))
    if "version" not in dataset.key:
        problems.append(
            (("key",), "Key lacks version: a correction could not be told from its original", "Add version to it.")
        )
    for place, name in enumerate(dataset.key):
        of = CLASSES.get(columns[name].data_class or "")
        if of is not None and of.sealed and not of.repeats:
            remedy = "Take the column out of the key: no value of it could be found again."
            problems.append((("key", place), "Key has a column whose class is sealed", remedy))
    if not {name for name in dataset.key if not columns[name].counts}:
        problems.append((("key",), "Key has no column that names the record", "Add the column with the record's name."))
    known, standard = _shipped_columns(), {column.name: column for column in _standard()}
    for place, column in enumerate(dataset.columns):
        at = ("columns", place)
        if column.name in standard and _publishing(column) != _publishing(standard[column.name]):
            remedy = "Leave it out, or declare it as vitalake/datasets/procedure.yaml and its neighbours do."
            problems.append((at, "A standard column of every record is declared in another way", remedy))
        if column.data_class is None:
            problems.append((at, "Column has no class: no rule could apply to it", "Give it a class."))
        if column.name in known and known[column.name] != (column.data_class, column.type):
            data_class, kind = known[column.name]
            allowed = f"Declare class {data_class}, type {kind}; or g" if data_class not in _PATIENTS_OWN else "G"
            remedy = f"{allowed}ive it another name."
            problems.append((at, "Column has another class or type than in the project's datasets", remedy))
        problems += [((*at, "form", *value), what, remedy) for value, what, remedy in _unknown_forms(column)]
        problems += [(at, what, remedy) for what, remedy in _unsafe(column)]
    return problems


def _problems_of_new(dataset: Dataset) -> Iterator[_Contradiction]:
    """Yield what a home may not declare, but earlier releases took: there may be a table with rows of patients."""
    if dataset.name in SQL_WORDS:
        yield ("name",), "The dataset's name is a word of SQL itself", _OTHER_NAME
    stays = [column for column in dataset.columns if column.data_class == "encounter-identifier"]
    for place, column in enumerate(dataset.columns):
        at = ("columns", place)
        if column.name in SQL_WORDS:
            yield at, "Column has a name that SQL takes as a word of its own", "Give it another name."
        if column.name == "status" and not says_status(column):
            # Of another class, a status that is not declared becomes null, and an older version of the row would count.
            yield (
                at,
                "status says whether a row counts, and is not declared so",
                "Declare type: string, class: record-version and values, such as [completed, entered-in-error]; or "
                "give the column another name.",
            )
        if isinstance(column.form, FormBy) and (values := dataset.column(column.form.column).values):
            for value in (value for value, _ in column.form.forms if value not in values):
                what = f"{column.form.column} has no such value, so that this form is never used"
                yield (*at, "form", value), what, f"Its values are: {', '.join(values)}."
        if column.data_class in _PATIENTS_OWN:
            yield (
                at,
                f"Column has the class {column.data_class}, whose numbers an erasure takes for the patient's own",
                "The patient is patient_id. Give another number another name and the class free-text, which is sealed.",
            )
        if column.data_class == "encounter-identifier" and column != stays[0]:
            # An erasure takes every such number for one of the patient's own stays: see pipelines/erasure.
            what = "A second column has the class encounter-identifier, whose numbers are the patient's own stays"
            yield (*at, "class"), what, "Give it the class free-text, which is sealed."


_OTHER_NAME = "Give the dataset and its file another name."


def _unknown_forms(column: Column) -> Iterator[_Contradiction]:
    """Yield which forms that a column names there are not; the place is within the field ``form``."""
    for value, form in _named_forms(column):
        if form not in (known := [*load_forms(), *OF_VOCABULARY]):
            yield (value,) if value else (), "There is no such form", f"The forms are: {', '.join(known)}."


def _named_forms(column: Column) -> tuple[tuple[str, str], ...]:
    """Return the forms that a column names, each with the value of the other column that it belongs to, or empty."""
    if isinstance(column.form, FormBy):
        return column.form.forms
    return () if column.form is None else (("", column.form),)


def _refused_forms(dataset: Dataset) -> Iterator[SettingsError]:
    """Yield why forms that a dataset's columns name cannot be used; earlier releases took some of them."""
    for column in dataset.columns:
        for _, name in _named_forms(column):
            if name == CODED_VALUE:
                # Another mistake in the vocabulary is an error for whoever writes rows. Who only reads need not know.
                with suppress(SettingsError):
                    yield from refused_systems()
            elif (why := refusal_of(name)) is not None:
                yield why


def _unsafe(column: Column) -> Iterator[tuple[str, str]]:
    """Yield why a column of a home could not be kept, published or erased safely, with the remedy."""
    data_class = column.data_class
    if column.name in OWN_COLUMNS or MADE in column.name:
        yield "Column has a name that the lake uses itself", "Give it another name."
    if column.name == "status" and not _open_text(column):
        yield (
            "status is not text: it says whether a row counts",
            "Declare the type string and a class that is not sealed, or give the column another name.",
        )
    if data_class is not None and CLASSES[data_class].ours:
        yield "Only the lake's own columns have this class", "Give it another class."
    if column.name not in {standard.name for standard in _standard()} and (
        column.token_with or column.ours or column.pairs
    ):
        yield (
            "token_with, ours and 'counts: pairs' are for the columns that every record has",
            "Leave the field out.",
        )
    if data_class == "patient-identifier" and column.name != "patient_id":
        # Keys, erasures, legal holds and the audit all rely on one patient per row.
        yield (
            "Column names a second patient",
            "patient_id is the patient; declare another person's number as free-text.",
        )
    if column.type == pa.binary() and not column.hashed:
        yield "Column is binary and not a hash: nothing says what it may hold", "Declare hashed: true, or another type."
    if data_class == "record-identifier" and not column.hashed:
        yield "A number of a record would be published in clear", "Declare type: binary and hashed: true."
    if column.type == pa.string() and not column.closed and data_class not in IDENTIFYING:
        yield (
            "Text that is not limited to a set or a form would be kept in clear",
            "Give it values, a list or a form; or give it the class free-text, which is sealed.",
        )


_PATIENTS_OWN = frozenset({"medical-record-number"})
"""Classes that a home cannot declare, because its columns could have another person's numbers, such as the mother's:
an erasure of the child (pipelines/erasure) would search for them as for the child's."""


def _publishing(column: Column) -> Column:
    """Return a column with only those fields that decide how it is published."""
    return replace(column, description="", fhir=None, statistics=False)


@cache
def _shipped_columns() -> dict[str, tuple[str | None, pa.DataType]]:
    """Return class and type of the project's identifying and standard columns, by name."""
    shipped = [_loaded(found) for found in declarations.shipped(_SHIPPED).values()]
    standard = {column.name for column in _standard()}
    clinical = [dataset for dataset in shipped if dataset.kind in (MEASUREMENT, ASSOCIATION, RECORD)]
    return {
        column.name: (column.data_class, column.type)
        for dataset in clinical
        for column in dataset.columns
        if column.data_class in IDENTIFYING or column.name in standard
    }
