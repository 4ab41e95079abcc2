"""Golden pairs of decoding: ``python -m tests.golden.decoding`` writes the outputs anew; look at what changed.

An input's name begins with its profile: ``<profile>--<what it shows>``. Its output has the same name and a line for
each row and each message that is rejected or holds nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.formats.shared.records import Records
from tests.decoding import BROKER_MS, decoder_of, take_by
from vitalake.lake.datasets.declared import load_dataset
from vitalake.settings import Settings

FOLDER = Path(__file__).parents[1] / "data" / "decoding"
FORMATS = {
    "hl7": ("hl7-v2", "observation"),
    "adt": ("hl7-v2", "device_association"),
    "flat": ("flat", "observation"),
}
"""Folder → format and dataset."""


def inputs() -> list[Path]:
    """Return the inputs."""
    return sorted(path for kind in FORMATS for path in (FOLDER / kind / "input").iterdir())


def output_of(path: Path) -> Path:
    """Return where an input's output is."""
    return path.parents[1] / "output" / path.name


def produced(path: Path) -> str:
    """Return what is made of an input today."""
    kind, dataset = FORMATS[path.parents[1].name]
    profile, _, _ = path.name.partition("--")
    decoder = decoder_of(f"{kind}:{profile}", dataset=dataset, settings=Settings(profiles=FOLDER / "profiles"))
    messages = path.read_bytes().removesuffix(b"\n").split(b"\n" if kind == "flat" else b"\n\n")
    if dataset == "observation":
        decoded, conformed, rejects = take_by(decoder, messages)
        rows, of = conformed.rows.to_pylist(), conformed.message.tolist()
    else:
        decoded = decoder.decode(messages)
        records = Records(load_dataset(dataset), key=b"k" * 32, max_future_seconds=0, min_effective_year=1900)
        batch, message, more = records.finish(decoded, broker_ms=np.full(len(messages), BROKER_MS))
        rows, of, rejects = batch.to_pylist(), message.tolist(), {r.message: r for r in (*decoded.rejects, *more)}
    lines = [(i, _line(i, row)) for i, row in zip(of, rows, strict=True)]
    lines += [(i, json.dumps([i, {"rejected": r.reason, "path": r.path}])) for i, r in rejects.items()]
    lines += [(i, json.dumps([i, {"nothing": dataset}])) for i in decoded.empty]
    return "".join(f"{line}\n" for _, line in sorted(lines, key=lambda line: line[0]))


def _line(message: int, row: dict[str, Any]) -> str:
    said = {name: _plain(value) for name, value in sorted(row.items()) if value is not None}
    return json.dumps([message, said], ensure_ascii=False)


def _plain(value: object) -> object:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else value


def _changed() -> Iterator[Path]:
    for path in inputs():
        text, output = produced(path), output_of(path)
        if not output.exists() or output.read_text() != text:
            output.write_text(text)
            yield output


if __name__ == "__main__":
    for changed in _changed():
        print(changed.relative_to(FOLDER))
