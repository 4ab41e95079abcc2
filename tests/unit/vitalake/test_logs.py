"""What is printed beside results: our own words only, whatever a library logs, warns of or dies of."""

from __future__ import annotations

import ast
import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from governance.query.errors import QueryRefused
from governance.query.sql import check
from vitalake import logs

LOUD = """
import logging, sys, threading, warnings
from vitalake.logs import silence, silence_failures
early = logging.getLogger("early"); early.addHandler(logging.StreamHandler()); early.setLevel(1)
silence(); silence_failures()
import mlflow.utils.logging_utils, apprise, uvicorn.config, sqlglot, apache_beam, deltalake, pyarrow
import logging.config
logging.config.dictConfig(uvicorn.config.LOGGING_CONFIG)
names = ["early", "mlflow", "mlflow.tracking", "apprise", "uvicorn", "uvicorn.access", "uvicorn.error", "asyncio"]
names += ["sqlglot", "kafka", "apache_beam", "great_expectations", "alembic", "sqlalchemy.engine", "botocore", "new"]
for name in names:
    logger = logging.getLogger(name)
    logger.addHandler(logging.StreamHandler(sys.stderr))
    logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.error("MARKER %s", "MARKER")
    logger.error("MARKER %d", "MARKER")  # what a handler cannot format it would print whole
warnings.warn("MARKER")
deltalake.write_deltalake(sys.argv[1], pyarrow.table({"a": ["MARKER"]}))
def fails(): raise ValueError("MARKER")
thread = threading.Thread(target=fails); thread.start(); thread.join()
class Odd:
    def __del__(self): raise ValueError("MARKER")
Odd()
print("began", file=sys.stderr)
if len(sys.argv) > 2:
    from vitalake import logs
    logs.configure()
    for name in names: logging.getLogger(name).error("MARKER", exc_info=ValueError("MARKER"))
    logging.getLogger("vitalake.x").info("ours")
fails()
"""


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Logging is the process', which other tests share."""
    root, kind = logging.getLogger(), logging.getLoggerClass()
    before = root.handlers[:], root.level, logging.lastResort, logging.raiseExceptions
    yield
    root.handlers[:], level, logging.lastResort, logging.raiseExceptions = before
    root.setLevel(level)
    root.__class__ = logging.RootLogger
    logging.setLoggerClass(kind)
    for logger in root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.__class__ = logging.Logger


@pytest.mark.slow
@pytest.mark.parametrize("configured", [[], ["configured"]], ids=["silent", "configured"])
def test_no_library_prints_by_itself(tmp_path: Path, configured: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", LOUD, str(tmp_path / "table"), *configured],
        capture_output=True, text=True, timeout=120, check=False, env=os.environ | {"RUST_LOG": "trace"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "began" in done.stderr
    assert "MARKER" not in done.stderr + done.stdout
    assert done.stderr.count("ValueError: its text is not shown") == 3  # a thread's, an object's, the process'
    assert ('"event":"ours"' in done.stderr) == ('"event":"third-party"' in done.stderr) == bool(configured)


def test_nobody_echoes_a_refused_query(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    for text in ("CALL f('MARKER')", "VACUUM 'MARKER'", "SELECT 'MARKER' FROM (", "EXPLAIN SELECT 'MARKER'"):
        with pytest.raises(QueryRefused):
            check(text, ["observation"])
    captured = capfd.readouterr()
    assert "MARKER" not in captured.out + captured.err + caplog.text


def test_a_line_holds_named_fields_only_and_a_library_with_a_name_like_ours_is_none() -> None:
    stream = io.BytesIO()
    logs.configure(stream=stream)
    logging.getLogger("vitalake.some").warning("said", extra={"count": 3, "value": "MARKER"})
    logging.getLogger("models_of_others").warning("MARKER")
    first, second = (msgspec.json.decode(line) for line in stream.getvalue().splitlines())
    assert (first["event"], first["count"], second["event"]) == ("said", 3, "third-party")
    assert second["where"].startswith("vitalake/test_logs.py:")
    assert "MARKER" not in stream.getvalue().decode()


def test_every_field_that_the_code_logs_is_printed() -> None:
    """Fields that are not on the list are dropped: four lines did not say what had failed."""
    root, lost, seen = Path(__file__).parents[3], list[str](), 0
    for path in (path for top in logs._OURS for path in (root / top).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "extra" and isinstance(node.value, ast.Dict):
                names = {str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)}
                seen += len(names)
                lost += [f"{path.name}:{node.value.lineno} {name}" for name in names - {*logs._FIELDS}]
    assert not lost
    assert seen > 20
