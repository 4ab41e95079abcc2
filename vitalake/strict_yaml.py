"""YAML as configuration should be read: a key that stands twice is an error, not a silent choice of the last."""

from __future__ import annotations

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping.

        Raises:
            ConstructorError: a key stands twice.
        """
        # Merge keys (<<) are resolved by the base class and may be overridden; what is written out may not.
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, "a key stands twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """Return the one document of a text, of plain types only.

    Raises:
        yaml.YAMLError: it is not YAML, holds more than one document, or a key stands twice.
    """
    return yaml.load(text, _Loader)  # noqa: S506 - the loader is a SafeLoader
