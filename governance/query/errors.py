"""Why a query is not answered; categories only, for DuckDB's own text quotes values."""

from __future__ import annotations

from typing import Literal

from vitalake.errors import InputError, PrivacyError, ServiceUnavailable, VitaLakeError

Category = Literal[
    "names", "form", "cast", "range", "memory", "time", "size", "storage", "refused", "failed", "outwards", "nested"
]


class QueryRefused(PrivacyError):
    """The query is not one that may be asked."""


class QueryFailed(InputError):
    """The query may be asked but has no answer."""


_TEXTS: dict[Category, tuple[str, str]] = {
    "names": ("a column or function is not known, or does not take these types", "Check names and types."),
    "form": ("it is not a query that DuckDB understands", "Check its form."),
    "cast": ("a value does not fit the type asked for", "Use try_cast, which gives null."),
    "range": ("a number is out of range", "Use try_cast to a wider type."),
    "memory": ("it takes more memory than a query may have", "Ask for fewer rows or groups."),
    "time": ("it takes longer than a query may run", "Ask for less, or filter first."),
    "size": ("its answer is larger than one may be", "Ask for fewer columns or rows."),
    "failed": ("the engine gave up", "Write it more simply."),
}


def failure(category: Category, *, remedy: str = "") -> VitaLakeError:
    """Return the error of a category.

    Args:
        category: what the sandbox said.
        remedy: instead of the usual one.
    """
    if category == "outwards":
        return untold("a subquery that looks outwards")
    if category == "nested":
        return untold("a whole row in one value")
    if category == "refused":
        return QueryRefused("Query is refused by the engine", where="vitalake sql", remedy="See docs/how-to.")
    if category == "storage":
        return ServiceUnavailable(
            "Query cannot read the lake's files", where="vitalake sql", remedy="Try again: they may just be replaced."
        )
    what, usual = _TEXTS[category]
    return QueryFailed(f"Query cannot be answered ({what})", where="vitalake sql", remedy=remedy or usual)


def ended() -> ServiceUnavailable:
    """Return the error of a query whose sandbox gave no answer."""
    return ServiceUnavailable(
        "Query was ended by the system", where="vitalake sql", remedy="Ask for less, or try again."
    )


_SIDE_BY_SIDE = "Join relations side by side instead of looking outwards from a subquery; name columns, not whole rows."


def untold(what: str, remedy: str = _SIDE_BY_SIDE) -> QueryRefused:
    """Return the refusal of a query whose patients cannot be known."""
    return QueryRefused(
        f"Query is refused (it cannot be known whose rows it rests on: {what})",
        where="vitalake sql --identified",
        remedy=remedy,
    )
