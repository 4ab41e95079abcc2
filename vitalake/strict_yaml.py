"""Reads the strict form of YAML that configuration has.

It refuses a key that occurs twice, of which other readers silently take the last; an alias, because a few hundred bytes
of nested aliases expand to billions of values; and very deep nesting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from yaml.composer import Composer

MOST_DEPTH = 50
"""Deepest nesting of lists and mappings. Our own files have at most eight levels. The reader recurses at each level."""


class NotStrict(yaml.MarkedYAMLError):
    """The text is YAML, but not in the strict form; ``problem`` quotes nothing of it."""


# libyaml parses many times faster than Python does, and every command and worker reads some of our vocabulary. The
# nodes are still composed in Python (Composer is the first base class), so that aliases and depth are refused in time.
_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(Composer, _Parser):
    _depth = 0

    def __init__(self, stream: str) -> None:
        _Parser.__init__(self, stream)
        Composer.__init__(self)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node.

        Raises:
            NotStrict: it is an alias, or is nested too deeply.
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
            NotStrict: a key occurs twice.
        """
        # The base class resolves merge keys (<<). A merged key may be overridden, a key that is written out may not.
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise NotStrict(problem="names a key twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """Return the only document of a text, as plain types.

    Raises:
        yaml.YAMLError: it is not YAML, has more than one document, or is not in the strict form (``NotStrict``).
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - the loader is a SafeLoader
    except yaml.MarkedYAMLError as error:
        last = text.count("\n")
        if error.problem_mark and error.problem_mark.line > last:  # libyaml counts the end of the text as one more line
            error.problem_mark = yaml.Mark("", 0, last, 0, None, 0)
        raise
    except ValueError as error:  # such as February 30, or a number of thousands of digits
        if isinstance(error, yaml.YAMLError):
            raise
        raise NotStrict(problem="has a date that does not exist, or a number that is too long") from None


def explain(error: Exception) -> tuple[str, int]:
    """Return what is wrong with a text that could not be read, and the line; nothing of the text is quoted.

    Args:
        error: the error that ``read_yaml`` raised, or the decoding of the text.
    """
    mark = getattr(error, "problem_mark", None)
    return str(error.problem) if isinstance(error, NotStrict) else "is not YAML", mark.line + 1 if mark else 1


def line_of(text: str, path: Sequence[str | int]) -> int:
    """Return the line of a value in a text that ``read_yaml`` has read.

    Args:
        text: text of the document.
        path: keys and indexes that lead to the value; where one does not exist, the line of the last that does.
    """
    node: Any = yaml.compose(text, _Loader)
    line = node.start_mark.line if node else 0
    for step in path:
        child = None
        if isinstance(node, yaml.MappingNode):
            child = next(((key, value) for key, value in node.value if key.value == str(step)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            child = node.value[step], node.value[step]
        if child is None:
            break
        line, node = child[0].start_mark.line, child[1]
    return line + 1
