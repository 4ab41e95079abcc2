"""Writes the pages of docs/reference from the code, and JSON Schemas for editors; ``make reference`` calls it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import Enum
from inspect import cleandoc
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
import typer
import yaml
from pydantic import BaseModel
from typer.core import TyperGroup, TyperOption

from docs.access import errors_page, http_page, roles_page
from docs.tables import table
from governance.policy.closed_text import describe_allowed
from governance.policy.masks import mask_kinds
from governance.policy.masks.registry import OURS
from governance.policy.rules import load_policy
from governance.samples import __file__ as samples_file
from models.tasks import task_schema
from pipelines.formats.registry import OURS as OUR_FORMATS
from pipelines.formats.registry import format_kind
from pipelines.formats.shared.categories import categories_document
from pipelines.formats.shared.reasons import EXPLAINED, UNDECODABLE
from pipelines.live.metrics import DOCUMENTED
from vitalake.cli.app import make_app
from vitalake.environment import may_set
from vitalake.lake.datasets.classes import CLASSES
from vitalake.lake.datasets.dataset import Column
from vitalake.lake.datasets.declared import json_schema as datasets_schema
from vitalake.lake.datasets.declared import load_dataset, published_datasets
from vitalake.settings import Settings
from vitalake.vocabulary import NO_UNIT, Vocabulary, load_vocabulary
from vitalake.vocabulary.forms import load_forms
from vitalake.vocabulary.home import json_schema as vocabulary_schema

FOLDER = Path(__file__).parent / "reference"
SCHEMAS = {"datasets": datasets_schema(), "task": task_schema(), "vocabulary": vocabulary_schema()}
"""JSON Schema of each kind of declaration that a home can add."""

_HEAD = "<!-- Made from the code by `make reference`; changes here are lost. -->\n\n"


def pages() -> dict[str, str]:
    """Return the generated files: name → text."""
    made = {
        "commands.md": _commands(),
        "configuration.md": _configuration(),
        "datasets.md": _datasets(),
        "errors.md": errors_page(),
        "formats.md": _formats(),
        "http.md": http_page(),
        "metrics.md": _metrics(),
        "reasons.md": _reasons(),
        "roles.md": roles_page(),
        "rules.md": _rules(),
        "vocabulary.md": _vocabulary(),
    }
    schemas = {
        f"schemas/{kind}.json": _schema(f"{kind} of a vitalake home", schema) for kind, schema in SCHEMAS.items()
    }
    return {name: _HEAD + text for name, text in made.items()} | schemas


def _schema(title: str, schema: dict[str, Any]) -> str:
    """Return the text of a JSON Schema file for editors; its descriptions are the docstrings of the structures."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}
    for form in (schema, *schema.get("$defs", {}).values()):
        if "description" in form:
            form["description"] = cleandoc(form["description"])
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _commands() -> str:
    root = typer.main.get_command(make_app())
    text = "# Commands\n\nEvery command ends with one of the [exit codes](errors.md).\n"
    return text + "".join(_command(["vitalake"], root))


def _command(path: list[str], command: Any) -> Iterator[str]:
    """Yield the section of a command, or of each command of a group; typer has its own copy of click's classes."""
    if isinstance(command, TyperGroup):
        for name, child in command.commands.items():
            yield from _command([*path, name], child)
        return
    yield f"\n## {' '.join(path)}\n\n{(command.help or '').strip()}\n\n"
    rows = []
    for param in command.params:
        if isinstance(param, TyperOption):
            names = ", ".join(f"`{name}`" for name in [*param.opts, *param.secondary_opts])
            choices = ", ".join(f"`{choice}`" for choice in _choices(param))
            rows.append([names, (param.help or "") + (f" One of {choices}." if choices else ""), _default(param)])
        else:
            rows.append([f"`{param.name}`", getattr(param, "help", "") or "", ""])
    yield table(["option", "meaning", "default"], rows)


def _choices(param: TyperOption) -> tuple[str, ...]:
    """Return the values that an option accepts, if they are limited."""
    kind: Any = param.type_descriptor.annotation
    origin: Any = get_origin(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return tuple(choice.value for choice in kind)
    return get_args(kind) if origin is Literal else ()


def _default(param: TyperOption) -> str:
    return "" if param.default is None or param.is_flag else str(getattr(param.default, "value", param.default))


def _configuration() -> str:
    rows = list(_fields(Settings, ""))
    return (
        "# Configuration\n\nThe configuration is `vitalake.yaml` in the home. Unknown fields are refused. "
        "Where the last column says yes, an environment "
        "variable can set the field instead: `VITALAKE_` and the field, with `__` between levels, such as "
        "`VITALAKE_KAFKA__BOOTSTRAP_SERVERS`. A variable for any other field is refused. "
        "Write secrets as references, `env:NAME` or `file:PATH`, never as they are.\n\n"
        + table(["field", "default", "meaning", "by variable"], rows)
    )


def _fields(model: type[BaseModel], prefix: str) -> Iterator[list[str]]:
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield from _fields(type(default), f"{prefix}{name}.")
        elif isinstance(default, dict) and default and isinstance(next(iter(default.values())), BaseModel):
            yield from _fields(type(next(iter(default.values()))), f"{prefix}{name}.*.")
        else:
            yield [
                f"`{prefix}{name}`",
                f"`{_inline(default)}`",
                field.description or "",
                "yes" if may_set(field) else "",
            ]


def _inline(value: Any) -> str:
    return yaml.safe_dump(str(value) if isinstance(value, Path) else value, default_flow_style=True).split("\n")[0]


def _formats() -> str:
    written = {"none": "`{0}`", "optional": "`{0}`, `{0}:<profile>`", "required": "`{0}:<profile>`"}
    kinds = [format_kind(name) for name in OUR_FORMATS]
    return (
        "# Formats\n\nThe formats that the messages of a topic can have, for `jobs.*.topics`. Installed packages can "
        "register [further formats](../how-to/write-a-format.md). [Read other formats](../how-to/formats.md) explains "
        "how messages are read.\n\n"
        + table(["format", "messages"], [[written[kind.profile].format(kind.name), kind.description] for kind in kinds])
    )


def _datasets() -> str:
    text = (
        "# Datasets\n\nA dataset declares the class of each column: what kind of data it has. Rules say what happens "
        "to each class. Text that is published unchanged must fit the last column, *holds only*: see "
        "[what text is published](../how-to/closed-text.md).\n\n## Classes\n\nThe list is closed: a declaration or a "
        "rule that names another class is refused. Values of a sealed class are encrypted one by one with the "
        "patient's key in the rows that are kept as they came; values of any other class are in clear there, except "
        "for text that does not fit its column. The last column is what the rules that `vitalake init` copies do; a "
        "class without a rule is not published.\n\n"
    )
    text += table(["class", "meaning", "sealed in identified rows", "shipped rules"], _classes())
    for name in (*published_datasets(), "dead_letter", "spans"):
        dataset = load_dataset(name)
        text += f"\n## {name}\n\nKey: {', '.join(dataset.key)}. Partitioned by the day of {dataset.day_of}.\n\n"
        rows = [
            [f"`{c.name}`", str(c.type), c.data_class or "(none)", c.description, _allowed_texts(c)]
            for c in dataset.columns
        ]
        text += table(["column", "type", "class", "meaning", "holds only"], rows)
    return text


def _classes() -> list[list[str]]:
    """Return for each data class its meaning, whether its values are sealed, and what the shipped rules do."""
    then = {
        rule.what.data_class: rule.then
        for rule in load_policy(Path(samples_file).parent).rules
        if rule.what.data_class and not (rule.what.dataset or rule.what.column)
    }
    rows = []
    for name, of in CLASSES.items():
        mask = then[name].mask if name in then else None
        options = msgspec.structs.asdict(then[name].options) if mask else {}
        said = " ".join([f"`{mask}`", *(f"{option} {value}" for option, value in options.items())])
        meaning = f"{of.meaning} (columns of the lake itself only)" if of.ours else of.meaning
        rows.append([f"`{name}`", meaning, "yes" if of.sealed else "", said if mask else "not published"])
    return rows


def _allowed_texts(column: Column) -> str:
    """Return which texts of a column can be published unchanged."""
    if column.values:
        return ", ".join(f"`{value}`" for value in column.values)
    return describe_allowed(column, {}) or "" if not column.listed else f"the entries of the list `{column.listed}`"


def _metrics() -> str:
    rows = [[f"`{name}`", text] for name, text in DOCUMENTED.items()]
    return (
        "# Metrics\n\nA stream serves `/metrics` (Prometheus) and `/healthz` on `observability.port`. `/healthz` "
        "answers 200 while all workers run, and otherwise 503 with the reasons.\n\n"
        + table(["metric", "meaning"], rows)
    )


def _reasons() -> str:
    rows = [
        [f"`{reason}`", "undecodable: no rows" if reason in UNDECODABLE else "rejected: all rows of the message", text]
        for reason, text in EXPLAINED.items()
    ]
    return "# Reasons of dead letters\n\nThis list is closed. One bad row rejects its whole message.\n\n" + table(
        ["reason", "counts as", "meaning"], rows
    )


def _rules() -> str:
    rows = [[f"`{name}`", kind.description] for name, kind in mask_kinds().items() if name in OURS]
    sample = (Path(samples_file).parent / "limited-data-set.yaml").read_text()
    return (
        "# Rules\n\nRules are YAML files in the home's `governance` folder. "
        "If several masks apply to a column, only the most restrictive one is used; 'vitalake policy check' names the "
        "rules that are not. "
        "A column without a class, or without a rule for its class, is not published. "
        "If a mask does not fit a column's type, the column is not published. "
        "`filter` leaves rows out and counts them. Unknown fields are refused. Installed packages can register "
        "[further masks](../how-to/write-a-mask.md).\n\n"
        + table(["mask, from least to most restrictive", "meaning"], rows)
        + "\nThe sample that `vitalake init` copies:\n\n```yaml\n"
        + sample
        + "```\n"
    )


def _accepted_units(words: Vocabulary, i: int, units: dict[int, str]) -> str:
    """Return the units that a code accepts besides its own, with the conversion of each."""
    accepted = []
    for j, unit in sorted(units.items()):
        factor, offset = words.factor[i, j], words.offset[i, j]
        if factor == factor and unit != words.unit_of[i]:  # not NaN
            shift = f" + {offset:.10g}" if offset else ""
            accepted.append(f"`{unit}`" if factor == 1.0 and not shift else f"`{unit}` × {factor:.6g}{shift}")
    return ", ".join(accepted)


def _range(words: Vocabulary, i: int) -> str:
    """Return the plausible range of a code, and the values below it that are accepted as an event."""
    text = f"{words.low[i]:g} – {words.high[i]:g}"
    below = f"{words.least[i]:g} – <{words.low[i]:g}" if words.least[i] < words.low[i] else ""
    events = " and ".join(filter(None, ["0" if words.zero_counts[i] else "", below]))
    return f"{text}; as an event {events}" if events else text


def _vocabulary() -> str:
    words, forms = load_vocabulary(), load_forms()
    codes = [
        [
            f"`{code}`",
            words.names[i],
            f"`{words.unit_of[i]}`",
            _range(words, i),
            words.sources[i],
        ]
        for code, i in words.codes.items()
    ]
    first = {j: unit for unit, j in reversed(words.units.items()) if unit != NO_UNIT}
    units = [[code, f"`{words.unit_of[i]}`", _accepted_units(words, i, first)] for code, i in words.codes.items()]
    spelled = {j: [text for text, i in words.units.items() if i == j and text != unit] for j, unit in first.items()}
    other = [[f"`{first[j]}`", ", ".join(f"`{text}`" for text in spelled[j])] for j in sorted(first) if spelled[j]]
    near = [[code, words.names[words.codes[code]], general] for code, general in words.counts_as.items()]
    answers = [
        [code, str(place), f"`{answer}`"]
        for code, scale in words.answers.items()
        for answer, place in scale.score.items()
    ]
    return (
        "# Vocabulary\n\n"
        + table(["LOINC", "name", "UCUM", "plausible", "source of the range"], codes)
        + "\n## Units that are converted\n\n"
        + table(["LOINC", "becomes", "of"], units)
        + "\n## Other spellings\n\nA text that is a UCUM code is taken exactly as it is. Any other spelling of three "
        "letters or more may differ in case, blanks, µ for u, and the way a power of ten is written.\n\n"
        + table(["UCUM", "also"], other)
        + "\n## Near codes\n\nRows keep the code that was sent. Scores and features that read the general code read "
        "these, too.\n\n"
        + table(["LOINC", "name", "counts as"], near)
        + "\n## Answers\n\nSome values are codes on a scale. The online store keeps their place on it as a number; the "
        "best answer is 0.\n\n"
        + table(["LOINC", "place", "value_code"], answers)
        + "\n## Code systems of coded values\n\nA code of another system, or with another form, counts as free text."
        "\n\n"
        + table(["system", "form"], [[system, f"`{form.pattern.pattern}`"] for system, form in words.systems.items()])
        + "\n## Forms of codes\n\nA text that does not have the form is not a code, and is not published.\n\n"
        + table(["form", "pattern", "source"], [[n, f"`{f.pattern.pattern}`", f.source] for n, f in forms.items()])
        + "\n## Categories\n\nThe categories that codes and words of senders become. A code that is not listed is "
        "counted, and not published; it never becomes *other*.\n" + "".join(_categories())
    )


def _categories() -> Iterator[str]:
    for column, document in categories_document().items():
        yield f"\n### {column}\n\n"
        rows = [
            [", ".join(uri or "(no system)" for uri in entry["uris"]), entry["source"], _pairs(entry["codes"])]
            for entry in document["systems"]
        ]
        rows.append(["words, whatever their case", document["words"]["source"], _pairs(document["words"]["texts"])])
        yield table(["system", "source", "code → category"], rows)


def _pairs(codes: dict[str, str]) -> str:
    return "; ".join(f"{code} → {category}" for code, category in codes.items())


def main() -> None:
    """Write the pages."""
    for name, text in pages().items():
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
