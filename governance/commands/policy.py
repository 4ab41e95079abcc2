"""``vitalake policy``: shows what the rules do to each column, before anything is published."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitalake.cli.output import HomeOption, JsonOption, Output, note
from vitalake.homes import resolve_home

if TYPE_CHECKING:
    from governance.policy.masking import MaskPlan


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(help="The masking rules: whether they are valid, and what they do.")
    group.callback()(lambda: None)
    group.command("check")(check)
    app.add_typer(group, name="policy", no_args_is_help=True)


def check(
    home: HomeOption = None,
    dataset: Annotated[str | None, typer.Option(help="One dataset; default: all that are published.")] = None,
    json: JsonOption = False,
) -> None:
    """Show each column, its class and what happens to it.

    Ends with 12 if the rules are not valid, and with 10 if a declaration is not, such as its FHIRPath or a form.
    """
    from governance.policy.masking import compile_masks
    from governance.policy.rules import load_policy
    from vitalake.home import Home
    from vitalake.lake.datasets.declared import load_dataset, published_datasets
    from vitalake.lake.tables.storage import open_storage
    from vitalake.lake.tables.table import refuse_new
    from vitalake.settings import load_settings
    from vitalake.vocabulary.home import check_forms

    settings = load_settings(resolve_home(home))
    policy, keys = load_policy(settings.path(settings.governance)), Home(settings).keys
    names = [dataset] if dataset else published_datasets()
    storage = open_storage(settings.lake_uri, settings.storage_options)
    for name in names:
        refuse_new(load_dataset(name), storage)
    plans = [compile_masks(policy, load_dataset(name), keys) for name in names]
    unchecked = [name for name in names if not _check_formats(name)]
    if unchecked:
        note(f"FHIRPath is not checked, because fhirpathpy is not installed: {', '.join(unchecked)}")
    documents = {plan.dataset.name: _document(plan) for plan in plans}
    Output(json).answer(
        {"version": policy.version, "rules": len(policy.rules), "datasets": documents},
        *(partial(_print, plan) for plan in plans),
        f"The rules are valid: {len(policy.rules)} rules, version {policy.version}.",
    )
    check_forms()  # last: the answer shows which columns publish no text because of it


def _check_formats(name: str) -> bool:
    """Return whether the FHIRPath expressions of a dataset of the home are checked, if it has any.

    Raises:
        SettingsError: it is not valid; the error names file and line.
    """
    from importlib.util import find_spec

    from vitalake import plugins
    from vitalake.lake.datasets.declared import load_dataset, where_declared

    dataset = load_dataset(name)
    if not where_declared()[name].of_home or dataset.fhir is None:
        return True
    if not find_spec("fhirpathpy"):
        return False
    plugins.load(plugins.registered("vitalake.formats")["fhir"]).check(dataset)
    return True


def _document(plan: MaskPlan) -> dict[str, Any]:
    filters = [{"column": rule.column, "leaves_out": list(rule.values)} for rule in plan.filters]
    return {
        "columns": plan.describe(),
        "filters": filters,
        "kept_identified": plan.dataset.restricted,
        "unclear": [column.column.name for column in plan.unclear],
    }


def _print(plan: MaskPlan) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from governance.policy.masking import describe_unclear

    grid = Table(title=plan.dataset.name, title_justify="left", box=None, padding=(0, 2), header_style="bold")
    for name in ("column", "class", "what happens", "rule"):
        grid.add_column(name)
    for entry in plan.describe():
        closed = not entry["published"]
        held = f": {entry['holds']}" if entry["holds"] else ""
        what = Text("not published", style="yellow") if closed else Text(f"{entry['mask']}{held}")
        because = str(entry["rule"] or ("no rule for its class" if entry["class"] else "it has no class"))
        because += f" (and not {entry['overruled']})" if entry["overruled"] else ""
        grid.add_row(str(entry["column"]), str(entry["class"] or "–"), what, because)
    console = Console(highlight=False)
    Console(highlight=False, width=None if console.is_terminal else 120).print(grid)
    if plan.unclear:
        why = "; ".join(f"{column.column.name}: {describe_unclear(column)}" for column in plan.unclear)
        typer.echo(f"  current rows cannot be read, only {plan.dataset.name}_versions: {why}")
    for rule in plan.filters:
        typer.echo(f"  left out, and counted as filtered: rows whose {rule.column} is {', '.join(rule.values)}")
    kept = "also kept unmasked in the restricted zone, with identifying columns sealed"
    typer.echo(f"  {kept if plan.dataset.restricted else 'not kept unmasked: what is not published is lost'}")
    typer.echo("")
