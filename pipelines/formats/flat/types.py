"""Makes msgspec types for a device's JSON from the paths of its profile; msgspec skips everything else unread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Union

import msgspec

from pipelines.formats.flat.profile_paths import EACH, Path, Step

Types = frozenset[type]
Column = list[Any]


@dataclass(slots=True)
class _Node:
    """A place in the JSON: a value, an object or a list."""

    leaf: Types | None = None
    fields: dict[str, _Node] = field(default_factory=dict)
    element: _Node | None = None

    def add(self, steps: Sequence[Step], types: Types) -> None:
        if not steps:
            if self.fields or self.element or self.leaf not in (None, types):
                raise ValueError("one place is used as two kinds of value")
            self.leaf = types
            return
        step, rest = steps[0], steps[1:]
        listed = isinstance(step, int) or step == EACH
        if self.leaf is not None or (self.fields if listed else self.element):
            raise ValueError("one place is used as two kinds of value")
        if listed:
            self.element = self.element or _Node()
            self.element.add(rest, types)
        else:
            self.fields.setdefault(str(step), _Node()).add(rest, types)

    def type(self, where: str = "Message") -> Any:
        """Return the msgspec type; everything inside can also be null or absent."""
        if self.leaf is not None:
            return Union[tuple(sorted(self.leaf, key=str))]  # noqa: UP007 - made at run time
        if self.element is not None:
            return list[self.element.type(f"{where}_") | None]  # type: ignore[misc]
        fields = [(f"f{i}", node.type(f"{where}_{i}") | None, None) for i, node in enumerate(self.fields.values())]
        names = {f"f{i}": name.removeprefix(".") for i, name in enumerate(self.fields)}
        return msgspec.defstruct(where, fields, rename=names, frozen=True, gc=False)

    def attributes(self, steps: Iterable[Step]) -> list[Step]:
        """Return the steps through the parsed objects: names of attributes, indices."""
        node, found = self, list[Step]()
        for step in steps:
            if isinstance(step, int) or step == EACH:
                assert node.element is not None
                node = node.element
                found.append(step)
            else:
                found.append(f"f{list(node.fields).index(step)}")
                node = node.fields[step]
        return found


class Layout:
    """Parses the messages of a profile, and makes functions that take a path's values out of them."""

    def __init__(self, paths: Iterable[tuple[Path, Types]]) -> None:
        """Make one.

        Raises:
            ValueError: two paths contradict each other.
        """
        self._root = _Node()
        for path, types in paths:
            self._root.add(path.steps, types)
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(self._root.type()).decode

    def outer(self, path: Path) -> Callable[[list[Any]], Column]:
        """Return a function that takes the values of a path's outer part out of messages."""
        return _taker(self._root.attributes(path.outer))

    def inner(self, path: Path) -> Callable[[list[Any]], Column]:
        """Return a function that takes the values of a path's inner part out of readings."""
        return _taker(self._root.attributes(path.steps)[len(path.outer) + 1 :])


def _taker(steps: list[Step]) -> Callable[[list[Any]], Column]:
    def carefully(thing: Any) -> Any:
        for step in steps:
            if thing is None:
                return None
            if isinstance(step, int):
                thing = thing[step] if step < len(thing) else None
            else:
                thing = getattr(thing, step)
        return thing

    def take_carefully(things: list[Any]) -> Column:
        return [carefully(thing) for thing in things]

    if not steps or any(isinstance(step, int) for step in steps):
        return take_carefully
    quickly = attrgetter(".".join(map(str, steps)))

    def take(things: list[Any]) -> Column:
        try:
            return list(map(quickly, things))
        except AttributeError:  # an object on the path is null
            return take_carefully(things)

    return take
