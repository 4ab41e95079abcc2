"""``vitalake lake schema``: shows what the tables of an older release lack, and adds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitalake.cli.output import HomeOption, JsonOption, Output
from vitalake.homes import resolve_home

if TYPE_CHECKING:
    from vitalake.lake.commits.lake import Lake
    from vitalake.lake.datasets.dataset import Dataset
    from vitalake.lake.tables.schema import SchemaState

_WORDS = {"add": "to add", "widen": "to widen", "record": "to record"}
_DONE = {"add": "added", "widen": "widened", "record": "recorded"}


def schema(
    table: Annotated[str | None, typer.Argument(help="One table, as 'vitalake lake tables' names it.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Make the changes, in one commit for each table.")] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Show what tables of an older release lack; with --apply add it. Streams and readers can go on meanwhile.

    Ends with 11 if a table cannot be changed. Streams and loads make the same changes when they write.
    """
    from vitalake.errors import InputError

    documents = []
    if apply:
        _admit(home)
    for name, dataset, lake in _chosen(home, table):
        state, applied = _inspect(lake, dataset, name, apply)
        documents.append(_document(name, state, applied, dataset))
    Output(json).answer({"tables": documents}, *map(_line, documents))
    if any(document["refused"] for document in documents):
        raise typer.Exit(InputError.exit_code)


def _admit(home: Any) -> None:
    """Stop if the lake belongs to another home."""
    from governance.belonging import admit
    from vitalake.settings import load_settings

    admit(load_settings(resolve_home(home)))


def _chosen(home: Any, name: str | None) -> list[tuple[str, Dataset, Lake]]:
    import vitalake
    from vitalake.errors import InputError

    lake = vitalake.open(home).lake()
    known = lake.here()
    if name is not None and name not in known:
        raise InputError("Unknown table", where=name, remedy=f"The lake has: {', '.join(known)}.")
    return [(each, dataset, lake) for each, dataset in known.items() if name in (None, each)]


def _inspect(lake: Lake, dataset: Dataset, name: str, change: bool) -> tuple[SchemaState, bool]:
    """Return the state of a table before any change, and whether it was changed."""
    from vitalake.lake.tables.schema import apply, open_delta, read_state

    delta = open_delta(lake.storage.child(name))
    state = read_state(dataset, delta)
    return state, change and not state.refused and bool(apply(dataset, delta, where=name))


def _document(name: str, state: SchemaState, applied: bool, dataset: Dataset) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "table": name,
        "revision": state.revision,
        "revision_of_dataset": dataset.revision,
        "changes": [asdict(change) for change in state.pending],
        "applied": applied,
        "republish": list(state.republish),
        "refused": list(state.refused),
    }


def _line(document: dict[str, Any]) -> str:
    words = _DONE if document["applied"] else _WORDS
    kinds: dict[str, list[str]] = {}
    for change in document["changes"]:
        if change["kind"] != "record":  # a table of the first release lacks the data class of every column
            kinds.setdefault(words[change["kind"]], []).append(f"{change['column']} ({change['detail']})")
    if any(change["kind"] == "record" for change in document["changes"]):
        kinds[words["record"]] = ["data classes"]
    said = [f"{what}: {', '.join(columns)}" for what, columns in kinds.items()]
    if document["republish"]:
        dataset = document["table"].rpartition("/")[2]
        columns = ", ".join(document["republish"])
        said.append(f"of another data class: {columns}; run 'vitalake lake rewrite --republish {dataset}'")
    if document["refused"]:
        said.append(f"REFUSED: {'; '.join(document['refused'])}")
    if not said:
        newer = document["revision"] > document["revision_of_dataset"]
        said = ["made by a newer release" if newer else "up to date"]
    return f"{document['table']}: {'; '.join(said)}"
