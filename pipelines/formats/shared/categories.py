"""Maps senders' codes and words to the categories that the lake publishes (vocabulary/categories.yaml)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from vitalake.errors import SettingsError
from vitalake.lake.datasets.declared import load_dataset
from vitalake.strict_yaml import read_yaml


@dataclass(frozen=True, slots=True)
class Categories:
    """The codes and words that senders use for one column's categories.

    Attributes:
        systems: URI of a code system ("" for a coding without one) → code → category.
        words: whole text in lower case → category.
    """

    systems: Mapping[str, Mapping[str, str]]
    words: Mapping[str, str]

    def of_code(self, system: str | None, code: str) -> str | None:
        """Return the category of a code; None: categories.yaml does not map it."""
        return self.systems.get(system or "", {}).get(code)

    def of_words(self, text: str) -> str | None:
        """Return the category of a whole text, whatever its case; None: categories.yaml does not map it."""
        return self.words.get(_plain(text))


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def parse_categories(document: Mapping[str, Any], values: tuple[str, ...]) -> Categories:
    """Return what an entry of categories.yaml declares for a column with these values.

    Raises:
        SettingsError: the entry lacks a part, names a system twice, or names a category that the column does not have.
    """
    systems: dict[str, dict[str, str]] = {}
    try:
        for entry in document["systems"]:
            codes = {str(code): str(category) for code, category in entry["codes"].items()}
            width = int(entry.get("digits", 0))
            # Senders often store a two-digit code as a number, so 01 arrives as 1.
            codes |= {c.lstrip("0"): category for c, category in codes.items() if width and len(c) == width}
            for uri in entry["uris"]:
                if uri in systems:
                    raise ValueError
                systems[uri] = codes
        words = {_plain(value): value for value in values}
        words |= {_plain(text): str(category) for text, category in document["words"]["texts"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise SettingsError("Categories are not valid", where="categories.yaml", remedy="Correct the entry.") from None
    named = {category for codes in systems.values() for category in codes.values()} | set(words.values())
    if not named <= set(values):
        raise SettingsError(
            "Category is not one of its column's values",
            where="categories.yaml",
            remedy="Use a value of the column in the dataset's file.",
        )
    return Categories(systems, words)


def categories_document() -> dict[str, dict[str, Any]]:
    """Return the entries of categories.yaml by ``dataset.column``."""
    document: dict[str, Any] = read_yaml((resources.files("vitalake.vocabulary") / "categories.yaml").read_text())
    return {name: entry for name, entry in document.items() if name != "version"}


@cache
def load_categories() -> dict[str, Categories]:
    """Return the categories that ship with the project, by ``dataset.column``."""
    categories = {}
    for name, entry in categories_document().items():
        dataset, _, column = name.partition(".")
        categories[name] = parse_categories(entry, load_dataset(dataset).column(column).values)
    return categories


def category_of(column: str, text: str) -> str:
    """Return the category of a whole text in ``dataset.column``; the text itself if categories.yaml does not map it.

    Masking does not publish a text that is not one of the column's values, and counts it.
    """
    categories = load_categories().get(column)
    return text if categories is None else categories.of_words(text) or text
