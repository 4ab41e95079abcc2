"""Mutation testing: changes one thing of a module at a time, and shows which changes no test notices.

``python -m tests.mutants MODULE [MOST [SEED]]`` tries every change, or so many at random. Tools for this start Python
for each: seconds of imports, here. This forks a process that has imported what is not ours. Processes that a test
starts run the module as it is on disk: tests that only start some are left out.
"""

from __future__ import annotations

import ast
import importlib
import multiprocessing
import os
import random
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

_POLICY = "tests/unit/governance/policy tests/contract tests/unit/vitalake/lake/test_message_tokens.py"
_SAID = " ".join(f"tests/property/test_{name}.py" for name in ("saying", "masking", "closing"))
TESTS = {  # modules that begin with this → their tests, the quick ones first: the first that fails is enough
    "governance.policy": f"{_POLICY} {_SAID}",
    "vitalake.lake.commits": "tests/unit/vitalake/lake/test_ledger.py tests/unit/vitalake/lake/test_spans.py",
    "pipelines.core": "tests/unit/pipelines/core/test_takeover.py",
    "pipelines.live.positions": "tests/services/test_positions.py",
}
OUT = "TestFormat or TestRule or page_shows or the_package or cannot_be_imported"
SECONDS = 600  # a change whose tests take longer counts as noticed: they may never end
SIGNS = "Lt LtE Lt GtE Gt GtE Gt LtE Eq NotEq Is IsNot In NotIn And Or Add Sub Mult FloorDiv BitAnd BitOr LShift RShift"
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}


def _instead(node: Any) -> Iterator[Any]:
    """Yield what may stand in a node's place."""
    signs = [getattr(ast, name) for name in SIGNS.split()]
    for one, other in zip(signs[::2], signs[1::2], strict=True):
        yield from [other()] * isinstance(node, one) + [one()] * isinstance(node, other)
    match node:
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Constant(value=str(value)) if " " not in value:  # words for people are left as they are
            yield ast.Constant(f"{value}x")
        case ast.Constant(value=bytes(value)):
            yield ast.Constant(value + b"x")
        case ast.UnaryOp():
            yield node.operand
        case ast.BoolOp(op, values):
            without = (values[:i] + values[i + 1 :] for i in range(len(values)))
            yield from (ast.BoolOp(op, left) if len(left) > 1 else left[0] for left in without)
        case ast.Name(id=name) if name in NAMES:
            yield ast.Name(NAMES[name], ast.Load())
        case ast.Return(value=ast.AST() as value) if not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.If() | ast.IfExp():
            kind: Any = type(node)
            yield from (kind(ast.Constant(answer), node.body, node.orelse) for answer in (True, False))
        case ast.comprehension(ifs=[_, *_]):
            yield ast.comprehension(node.target, node.iter, [], 0)
        case ast.Continue() | ast.Break():
            yield from (ast.Pass(), ast.Break() if isinstance(node, ast.Continue) else ast.Continue())
        case ast.Raise() | ast.AugAssign() | ast.Expr() | ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()


def _unread(field: str, parent: Any, node: ast.AST) -> bool:
    """Return whether nothing reads it: annotations (but msgspec's), docstrings, words in texts, imports for types."""
    text, of = ast.unparse(node), node.value if isinstance(node, ast.Expr) else node
    read = isinstance(parent, ast.AnnAssign) and ("Meta(" in text or "Literal[" in text)
    unread = field in ("annotation", "returns", "decorator_list") and not read
    word = isinstance(of, ast.Constant) and (of is not node or isinstance(parent, ast.JoinedStr))
    return word or unread or text.startswith("if TYPE_CHECKING")


def changes(path: str) -> list[tuple[str, CodeType]]:
    """Return every change of a module: where it is and what it does, and the module with it."""

    def within(parent: ast.AST, line: int) -> Iterator[tuple[str, CodeType]]:
        for field, value in ast.iter_fields(parent):
            held: Any = value if isinstance(value, list) else parent.__dict__
            for key in range(len(value)) if isinstance(value, list) else [field]:
                node = held[key]
                if not isinstance(node, ast.AST) or _unread(field, parent, node):
                    continue
                at, shown = getattr(node, "lineno", line), node if isinstance(node, ast.expr | ast.stmt) else parent
                before = ast.unparse(shown).splitlines()[0]
                for other in _instead(node):
                    held[key] = ast.fix_missing_locations(ast.copy_location(other, shown))
                    after = ast.unparse(other if shown is node else shown).splitlines()[0]
                    yield f"{path}:{at}  {before}  →  {after}", compile(tree, path, "exec")
                    held[key] = node
                yield from within(node, at)

    tree = ast.parse(Path(path).read_text())
    return list(within(tree, 0))


class _Watch:
    """A plugin of pytest that notes which tests fail."""

    def __init__(self, failed: list[str]) -> None:
        self._failed = failed

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a failed test."""
        self._failed.extend([report.nodeid] * report.failed)


def _noticed(tests: list[str], module: str = "", code: CodeType | None = None) -> tuple[str, list[str]]:
    """Return the first test that fails with a changed module, if any does; and what was imported."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    read, failed = SourceFileLoader.get_code, list[str]()
    changed: Any = lambda loader, name: code if name == module else read(loader, name)  # noqa: E731
    SourceFileLoader.get_code = changed  # type: ignore[method-assign]
    watch = _Watch(failed)
    options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    ended = pytest.main([*options, "-k", f"not ({OUT})", *tests], plugins=[watch])
    return (failed or [f"exit code {ended}" if ended else ""])[0], list(sys.modules)


def _forked(*given: Any) -> Any:
    """Return what _noticed returns in a fork; None: it takes too long, or the fork ends without a result."""
    reading, writing = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=lambda: writing.send(_noticed(*given)))
    process.start()
    writing.close()
    with suppress(EOFError):
        return reading.recv() if reading.poll(SECONDS) else process.kill()


def main(module: str, most: str = "1_000_000", seed: str = "0") -> None:
    """Change a module in every way, or in some, and print which test notices."""
    tests = next(tests.split() for start, tests in TESTS.items() if module.startswith(start))
    quick = settings(max_examples=25, derandomize=True, deadline=None, phases=[Phase.explicit, Phase.generate])
    settings.register_profile("quick", quick, suppress_health_check=list(HealthCheck))
    os.environ |= {"VITALAKE_HYPOTHESIS": "quick", "OPENBLAS_NUM_THREADS": "1"}
    failed, imported = _forked(tests) or ("it does not end", [])
    assert not failed, f"without a change: {failed}"
    for name in imported:
        if name.partition(".")[0] not in ("vitalake", "governance", "pipelines", "models", "tests"):
            with suppress(Exception):
                importlib.import_module(name)
    every = changes(f"{module.replace('.', '/')}.py")
    some = random.Random(int(seed)).sample(range(len(every)), min(int(most), len(every)))
    for what, code in (every[i] for i in sorted(some)):
        by, _ = _forked(tests, module, code) or ("the clock, or Python's end", [])
        print(f"{what}  {f'noticed by {by}' if by else 'SURVIVES'}", flush=True)
    print(f"seed {seed}: {len(some)} of {len(every)} changes")


if __name__ == "__main__":
    main(*sys.argv[1:])
