"""The errors of queries. They say a category, never DuckDB's own text, which quotes values."""

from __future__ import annotations

from typing import Literal

from vitalake.errors import InputError, PrivacyError, ServiceUnavailable, VitaLakeError

Category = Literal[
    "names", "form", "cast", "range", "memory", "time", "size", "storage", "refused", "failed", "outwards", "nested"
]


class QueryRefused(PrivacyError):
    """The query is not allowed."""


class QueryFailed(InputError):
    """The query is allowed but cannot be answered."""


_TEXTS: dict[Category, tuple[str, str]] = {
    "names": ("a column or function is not known, or does not take these types", "Check names and types."),
    "form": ("DuckDB does not understand it", "Check its syntax."),
    "cast": ("a value does not fit the type asked for", "Use try_cast, which gives null."),
    "range": ("a number is out of range", "Use try_cast to a wider type."),
    "memory": ("it needs more memory than a query may use", "Ask for fewer rows or groups."),
    "time": ("it takes longer than a query may run", "Ask for less, or filter first."),
    "size": ("its answer is too large", "Ask for fewer columns or rows."),
    "failed": ("DuckDB gave up", "Write the query more simply."),
}


def failure(category: Category, *, remedy: str = "") -> VitaLakeError:
    """Return the error of a category.

    Args:
        category: as the sandbox reported it.
        remedy: replaces the usual remedy.
    """
    if category == "outwards":
        return untraceable("a correlated subquery")
    if category == "nested":
        return untraceable("a whole row in one value")
    if category == "refused":
        return QueryRefused(
            "Query is refused by DuckDB", where="vitalake sql", remedy="See docs/how-to/sql-and-audit.md."
        )
    if category == "storage":
        return ServiceUnavailable(
            "Query cannot read the lake's files",
            where="vitalake sql",
            remedy="Try again: a compaction or rewrite may just have replaced them.",
        )
    what, usual = _TEXTS[category]
    return QueryFailed(f"Query cannot be answered ({what})", where="vitalake sql", remedy=remedy or usual)


def ended() -> ServiceUnavailable:
    """Return the error of a query whose sandbox gave no answer."""
    return ServiceUnavailable(
        "The operating system ended the query", where="vitalake sql", remedy="Ask for less, or try again."
    )


_USE_JOINS = "Use a join instead of a correlated subquery, and name columns instead of whole rows."


def untraceable(what: str, remedy: str = _USE_JOINS) -> QueryRefused:
    """Return the refusal of a query for which the service cannot tell which patients' rows the answer uses."""
    return QueryRefused(
        f"Query is refused (it cannot be told which patients' rows the answer uses: {what})",
        where="vitalake sql --identified",
        remedy=remedy,
    )
