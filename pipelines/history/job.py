"""Reads job files: a source, the address of its warehouse, and one SELECT for each dataset that it fills."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml

from pipelines.formats.shared.records import MERGED
from pipelines.history.warehouse import SILENCE_SECONDS
from vitalake.declarations import END
from vitalake.errors import SettingsError
from vitalake.lake.datasets.declared import published_datasets
from vitalake.strict_yaml import explain, read_yaml

_SHIPPED = Path(str(resources.files(__package__))) / "jobs"
SOURCES = tuple(sorted(path.stem for path in _SHIPPED.glob("*.yaml")))
"""Jobs that ship with the project."""

Maker = Literal["mimic-demo", "cinc-2012"]


Source = Annotated[str, msgspec.Meta(pattern=rf"^[A-Za-z0-9][A-Za-z0-9_-]{{0,60}}{END}")]
"""A source's name: it stands in published rows, spans and file names, so it has only letters, digits, - and _."""


Namespace = Annotated[str, msgspec.Meta(pattern=rf"^(?!{MERGED})[^\s|\\]{{1,100}}$")]
"""Who gave numbers: a word, or a URI as the system of a FHIR identifier. A bar ends it, so it holds none itself."""


_FIELDS = {
    "source": (
        "Source's name is not valid",
        "Use up to 61 letters, digits, - and _: it stands in published rows and in file names.",
    ),
    "namespace": (
        "Namespace is not valid",
        "Write up to 100 characters without blanks, | and \\, as HL7's assigning authority or a URI.",
    ),
    "max_rejected": (
        "Greatest share of rejected rows is not valid",
        "Write a number from 0 (no row) to 1 (all rows): 0.01 is one row in a hundred.",
    ),
    "silence_seconds": (
        "Longest wait for an answer is not valid",
        f"Write a number of seconds above 0: without the field it is {SILENCE_SECONDS:g}.",
    ),
}
"""Fields of a job file whose form is not plain: what is said of a wrong one, and what to do."""


MOST_SILENCE_SECONDS = 1e9
"""Thirty years, for who wants to wait for ever. Python refuses to wait for an infinite time, or for 300 years."""


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    source: Source
    warehouse: str
    datasets: dict[str, str]
    maker: Maker | None = None
    incarnation: str | None = None
    namespace: Namespace | None = None
    max_rejected: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01
    silence_seconds: Annotated[float, msgspec.Meta(gt=0, le=MOST_SILENCE_SECONDS)] = SILENCE_SECONDS
    not_to_care: list[str] = []


@dataclass(frozen=True, slots=True)
class Job:
    """What a job file says.

    Attributes:
        source: the source's name in the ledger.
        warehouse: address, or a reference to one: see pipelines.history.warehouse.
        maker: what makes the embedded warehouse if it does not exist; None: it must exist.
        incarnation: a SELECT of one text; when the text changes, the source counts as another one and is read from the
            start.
        queries: dataset → SELECT, in the order in which they are loaded.
        namespace: who gave the numbers of patients, stays, devices and records; None: they are unique across sources.
        max_rejected: the greatest share of rejected rows with which a dataset is still published.
        silence_seconds: longest wait for the next answer of a warehouse that is a server.
        not_to_care: LOINC codes that do not go to the online store, because devices send them.
    """

    source: str
    warehouse: str
    maker: Maker | None
    incarnation: str | None
    queries: dict[str, str]
    namespace: str | None
    max_rejected: float
    silence_seconds: float
    not_to_care: frozenset[str]

    @property
    def name(self) -> str:
        """Return the job's name in the ledger."""
        return f"history-{self.source}"


def load_job(name: str) -> Job:
    """Read a job that ships with the project, or a job file; its queries are files beside it.

    Raises:
        SettingsError: there is no such job, or its file is not valid.
    """
    path = _SHIPPED / f"{name}.yaml" if name in SOURCES else Path(name)
    if not os.path.isfile(path):  # Path.is_file raises if the name is too long
        raise SettingsError(
            "Unknown source",
            where=name,
            remedy=f"The sources are: {', '.join(SOURCES)}; or give the path of a job file.",
        )
    try:
        document = msgspec.convert(read_yaml(_text(path)), _Document)
        queries = {name: _text(path.parent / query, of=name) for name, query in document.datasets.items()}
    except yaml.YAMLError as error:
        why, line = explain(error)
        raise SettingsError(f"Job file {why}", where=f"{path.name}:{line}", remedy="Correct that line.") from None
    except msgspec.ValidationError as error:
        for field, (what, remedy) in _FIELDS.items():
            if f"`$.{field}`" in str(error):
                raise SettingsError(what, where=f"{path.name}: {field}", remedy=remedy) from None
        raise SettingsError(
            f"Job file is not valid ({error})", where=path.name, remedy="Correct it; see the how-to on history."
        ) from None
    unknown = sorted(queries.keys() - set(published_datasets()))
    if unknown or not queries:
        raise SettingsError(
            "Job has no query, or one for a dataset that does not exist",
            where=f"{path.name}: {', '.join(unknown) or 'datasets'}",
            remedy=f"The datasets are: {', '.join(published_datasets())}.",
        )
    return Job(
        source=document.source,
        warehouse=document.warehouse,
        maker=document.maker,
        incarnation=document.incarnation,
        queries=queries,
        namespace=document.namespace,
        max_rejected=document.max_rejected,
        silence_seconds=document.silence_seconds,
        not_to_care=frozenset(document.not_to_care),
    )


def _text(path: Path, *, of: str = "") -> str:
    """Return the text of a job file, or of the query of a dataset.

    Raises:
        SettingsError: it cannot be read, or is not UTF-8.
    """
    what, where = ("Query", f"{path.name}, query of {of}") if of else ("Job file", path.name)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SettingsError(f"{what} is not UTF-8", where=where, remedy="Save it as UTF-8.") from None
    except (OSError, ValueError) as error:  # ValueError: YAML can write a zero byte into the name
        why = getattr(error, "strerror", "its name is not valid")
        remedy = "Put it beside the job file, where this account can read it." if of else "Let this account read it."
        raise SettingsError(f"{what} cannot be read ({why})", where=where, remedy=remedy) from None
