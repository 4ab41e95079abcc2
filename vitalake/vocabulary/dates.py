"""Patterns of the dates that people write: a form of a home that one of these texts has is refused.

They are patterns and not lists, because a form is compared with all of their texts at once (overlap.py): any year,
month and day, in any usual order, and any usual sign between them. The 31st of February counts as a date.
"""

from __future__ import annotations

_DAY = "(?:0?[1-9]|[12][0-9]|3[01])"
_MONTH = "(?:0?[1-9]|1[0-2])"
_DD, _MM, _YY = "(?:0[1-9]|[12][0-9]|3[01])", "(?:0[1-9]|1[0-2])", "[0-9]{2}"
_YYYY = "(?:19[0-9]{2}|20[0-3][0-9])"

_SIGN = r"[ -/:-@\[-`{-~]"
_BETWEEN = rf"(?:{_SIGN}{{1,3}}|[A-Za-z])"
"""What stands between numbers: up to three signs, as in ``05. / 01``, or a letter. Both places have something: a number
with one sign, such as 2345-7, is no date."""

_AFTER_MONTH = "(?:[-./ _]{1,2}|[A-Za-z])"
"""The same in a month without its day. A ratio such as 1:1950 is no month."""


def _orders(year: str, month: str, day: str, between: str) -> str:
    orders = ((year, month, day), (day, month, year), (month, day, year), (year, day, month))
    return "|".join(between.join(parts) for parts in orders)


UNSIGNED = "|".join(
    (
        *(_orders(year, _MM, _DD, "") for year in (_YY, _YYYY)),
        *(f"[1-9]{second}{year}" for second in (_MM, _DD) for year in (_YY, _YYYY)),
    )
)
"""Dates without a sign. The last ones lack their first zero, which a spreadsheet drops: 50550, 5051950."""

SIGNED = "|".join(_orders(year, _MONTH, _DAY, _BETWEEN) for year in (_YY, _YYYY))
"""Dates with something between their numbers."""

IN_FULL = "|".join(
    (
        _orders(_YYYY, _MONTH, _DAY, _BETWEEN),
        # A month without zero is one only before its year: 1950-5 is a code of LOINC, too.
        f"{_YYYY}{_AFTER_MONTH}{_MM}",
        f"{_MONTH}{_AFTER_MONTH}{_YYYY}",
        f"{_YYYY}-?W[0-5][0-9](?:-?[1-7])?",
    )
)
"""Dates, months and weeks whose year has its century."""

_NAMES = (
    ("January", "Januar", "Jan"), ("February", "Februar", "Feb"), ("March", "März", "Maerz", "Mar", "Mrz", "Mär"),
    ("April", "Apr"), ("May", "Mai"), ("June", "Juni", "Jun"), ("July", "Juli", "Jul"), ("August", "Aug"),
    ("September", "Sept", "Sep"), ("October", "Oktober", "Oct", "Okt"), ("November", "Nov"),
    ("December", "Dezember", "Dec", "Dez"),
)  # fmt: skip
"""Names of each month, English and German."""


def _named(names: tuple[str, ...]) -> str:
    """Return the pattern of dates of a month that has its name; beside the name a sign may be missing."""
    name = "|".join("".join(f"[{sign.lower()}{sign.upper()}]" for sign in one) for one in names)
    month, year, may = f"(?:{name})", f"(?:{_YYYY}|{_YY})", f"{_SIGN}{{0,3}}"
    orders = (
        (_DAY, month, year), (month, _DAY, year), (year, month, _DAY), (year, _DAY, month), (month, _YYYY),
        (_YYYY, month),
    )  # fmt: skip
    return "|".join(may.join(parts) for parts in orders)


NAMED = tuple(map(_named, _NAMES))
"""Dates with the name of their month, by month."""
