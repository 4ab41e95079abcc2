"""What a dataset is: declared once in YAML; the Arrow schema, data classes and partitioning follow from it."""

from __future__ import annotations

from dataclasses import dataclass
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

_FOLDER = Path(str(resources.files("vitalake"))) / "datasets"


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
    """

    name: str
    type: pa.DataType
    data_class: str | None
    description: str
    statistics: bool = False
    completed_years: tuple[str, str] | None = None
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dataset:
    """A declared dataset.

    Attributes:
        name: also the name of its table.
        columns: in order; the partition column ``day`` is not among them.
        key: columns that name a row.
        day_of: the column whose (masked) date is the partition; None: the table is not partitioned.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    day_of: str | None

    @property
    def schema(self) -> pa.Schema:
        """Return the Arrow schema of its rows, without the partition column."""
        return pa.schema([pa.field(c.name, c.type) for c in self.columns])

    @property
    def table_schema(self) -> pa.Schema:
        """Return the schema of its table, the partition column ``day`` last."""
        return self.schema.append(pa.field("day", pa.date32())) if self.day_of else self.schema

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
            )
            for entry in document["columns"]
        )
        dataset = Dataset(document["name"], columns, tuple(document["key"]), document.get("day_of"))
    except (KeyError, TypeError, ValueError) as error:
        raise SettingsError(f"Dataset declaration lacks or misnames {error}", where=where, remedy="Mend it.") from None
    names = {c.name for c in columns}
    sources = {name for c in columns for name in c.completed_years or ()}
    if not names.issuperset(sources):
        raise SettingsError("Derived column lacks its source", where=where, remedy="Name columns of the dataset.")
    if len(names) != len(columns) or not names.issuperset(dataset.key) or (dataset.day_of or "") not in names | {""}:
        raise SettingsError("Dataset declaration contradicts itself", where=where, remedy="Check key and day_of.")
    return dataset


def _pair(names: list[str] | None) -> tuple[str, str] | None:
    if names is None:
        return None
    first, second = names
    return first, second


@cache
def dataset_names() -> tuple[str, ...]:
    """Return the names of the datasets that ship with the project."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def published_datasets() -> list[str]:
    """Return the names of those whose rows are published; the others are the lake's own books."""
    return [name for name in dataset_names() if name not in ("dead_letter", "spans")]


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
