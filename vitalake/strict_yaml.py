"""YAML as configuration should be read: what it says is what stands there, once.

Refused are a key that stands twice, which others read as the last; an alias, for a few hundred bytes of aliases of
aliases stand for billions of values; and nesting without end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from yaml.composer import Composer

MOST_DEPTH = 50
"""Of lists and mappings in each other; the deepest of ours has eight. The reader calls itself for each."""


class NotStrict(yaml.MarkedYAMLError):
    """It is YAML, but of a form that is not read here; ``problem`` quotes nothing."""


# libyaml splits the text many times as fast as Python does, and every command and worker reads some of our vocabulary.
# What it has split is put together in Python still (Composer comes first): aliases and depth are refused in time.
_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(Composer, _Parser):
    _depth = 0

    def __init__(self, stream: str) -> None:
        _Parser.__init__(self, stream)
        Composer.__init__(self)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node.

        Raises:
            NotStrict: it is an alias, or lies too deep.
        """
        if self.check_event(yaml.AliasEvent):
            raise self._refused("uses an alias")
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise self._refused("is nested too deeply")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _refused(self, problem: str) -> NotStrict:
        event: Any = self.peek_event()
        return NotStrict(problem=problem, problem_mark=event.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping.

        Raises:
            NotStrict: a key stands twice.
        """
        # Merge keys (<<) are resolved by the base class and may be overridden; what is written out may not.
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise NotStrict(problem="names a key twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """Return the one document of a text, of plain types only.

    Raises:
        yaml.YAMLError: it is not YAML, holds more than one document, or is refused here (``NotStrict``).
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - the loader is a SafeLoader
    except yaml.MarkedYAMLError as error:
        last = text.count("\n")
        if error.problem_mark and error.problem_mark.line > last:  # libyaml takes the text's end for a line of its own
            error.problem_mark = yaml.Mark("", 0, last, 0, None, 0)
        raise
    except ValueError as error:  # a day that no month has, a number of thousands of digits
        if isinstance(error, yaml.YAMLError):
            raise
        raise NotStrict(problem="holds a date or number that cannot be") from None


def explain(error: Exception) -> tuple[str, int]:
    """Return what is wrong with a text that could not be read, and in which line; nothing of it is quoted.

    Args:
        error: of ``read_yaml``, or of decoding the text.
    """
    mark = getattr(error, "problem_mark", None)
    return str(error.problem) if isinstance(error, NotStrict) else "is not YAML", mark.line + 1 if mark else 1


def line_of(text: str, path: Sequence[str | int]) -> int:
    """Return the line in which something stands in a text that ``read_yaml`` has read.

    Args:
        text: of the document.
        path: keys and places on the way to it; what is not there is as far as the way leads.
    """
    node: Any = yaml.compose(text, _Loader)
    line = node.start_mark.line if node else 0
    for step in path:
        found = None
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(step)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            found = node.value[step], node.value[step]
        if found is None:
            break
        line, node = found[0].start_mark.line, found[1]
    return line + 1
