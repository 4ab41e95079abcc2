"""Reasons in people's words are kept for ever: they are refused where they hold what names a patient."""

from __future__ import annotations

import calendar
import re
import unicodedata
from collections.abc import Iterable
from contextlib import closing, suppress
from datetime import date
from itertools import pairwise

from governance.keyuse import open_vault
from pipelines.decoding.naming import words_in
from vitalake.errors import InputError, VitaLakeError
from vitalake.keys import KeyRing
from vitalake.settings import Settings
from vitalake.vault import Identity, Vault
from vitalake.vault.opening import vault_id

SHORTEST = 3
"""Letters of a word that is looked for alone; two that stand together, as in a name, are looked for however short."""

SHORTEST_NUMBER = 5
"""Digits of a number of an address that is looked for: a postal code, and not a house's number."""

_STOP = frozenset(
    "the and for not with from der die das und von mit den dem des ein eine fur les del della van zum zur "
    "mrs miss herr frau".split()
)
"""Words that tell nobody from others, though they stand in names."""

_PLACES = frozenset(
    "street road avenue lane drive court place square way park house flat floor building close terrace ward "
    "strasse str weg platz allee gasse haus hof rue via calle north south east west upper lower new old saint".split()
)
"""Nor do these, which stand in addresses."""

_GERMAN = "januar februar märz april mai juni juli august september oktober november dezember".split()
_MONTHS = {name: number for names in (calendar.month_name[1:], _GERMAN) for number, name in
           enumerate(map(str.casefold, names), 1)}  # fmt: skip
_DATE = re.compile(r"(?<!\d)(\d{1,4})\W{1,3}(\d{1,2}|[^\W\d]{3,9})\W{1,3}(\d{1,4})(?!\d)")
_DATE_IN_WORDS = re.compile(r"([^\W\d]{3,9})\W{1,3}(\d{1,2})(?:st|nd|rd|th)?\W{1,3}(\d{4})(?!\d)")
_COMPACT = re.compile(r"(?<!\d)(?:(\d{4})(\d\d)(\d\d)|(\d\d)(\d\d)(\d{4}))(?!\d)")


def refuse_naming(
    reason: str, names: Iterable[str], identities: Iterable[Identity] = (), *, where: str = "--reason"
) -> None:
    """Stop where a reason holds one of a patient's ids, numbers or pseudonyms, or words of what the vault knows.

    Accents and case make no difference.

    Args:
        reason: in somebody's words.
        names: ids, numbers and pseudonyms.
        identities: of the patient: name, birth date, address.
        where: it was given.

    Raises:
        InputError: it does; what it holds is not echoed.
    """
    parts = {part for name in names for part in (name, name.rpartition("|")[2]) if part}
    if any(re.search(rf"(?<!\w){re.escape(part)}(?!\w)", reason, re.IGNORECASE) for part in parts):
        raise _refused("an id or a number of the patient", where)
    said = _words(reason)
    for identity in identities:
        if _telling(identity.name) & set(said) or _pairs(_words(identity.name)) & _pairs(said):
            raise _refused("a word of the patient's name", where)
        if (_telling(identity.address) - _PLACES) & set(said):
            raise _refused("a word of the patient's address", where)
        if identity.birth_date and _day(identity.birth_date) in _dates(reason):
            raise _refused("the patient's date of birth", where)


def refuse_naming_anybody(reason: str, vault: Vault, *, where: str) -> None:
    """Stop where a reason, which is of no patient, names one whom the vault knows: by an id, or two words of a name.

    One word of a name would be too little: among many patients some is called like any word.

    Raises:
        InputError: it does; what it holds is not echoed.
        KeyRevoked, ServiceUnavailable: the vault does not open.
    """
    if vault.knows(words_in(reason.encode())):
        raise _refused("an id or a number of a patient", where)
    said = _words(reason)
    words, pairs = set(said), _pairs(said)
    for identity in vault.identities():
        if len(_telling(identity.name) & words) > 1 or _pairs(_words(identity.name)) & pairs:
            raise _refused("the name of a patient", where)


def refuse_naming_if_known(reason: str, settings: Settings, keys: KeyRing, *, where: str) -> None:
    """Do the same where the vault opens: for what must not wait for it, such as the withdrawal of a score.

    Raises:
        InputError: the reason names a patient.
    """
    try:
        if not vault_id(settings):
            return
        with closing(open_vault(settings, keys, purpose="reason")) as vault:
            refuse_naming_anybody(reason, vault, where=where)
    except InputError:
        raise
    except VitaLakeError:
        return


def _refused(what: str, where: str) -> InputError:
    return InputError(
        f"Reason holds {what}", where=where, remedy="It is kept in clear: give a number, such as the request's."
    )


def _words(text: str | None) -> list[str]:
    """Return the words of a text, without case and accents."""
    plain = unicodedata.normalize("NFKD", (text or "").casefold())
    bare = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.findall(r"[^\W_]+", bare)


def _telling(text: str | None) -> set[str]:
    """Return the words that tell somebody from others."""
    return {
        word
        for word in _words(text)
        if len(word) >= (SHORTEST_NUMBER if word.isdigit() else SHORTEST) and word not in _STOP
    }


def _pairs(words: list[str]) -> set[frozenset[str]]:
    """Return words that stand side by side, in whichever order, but for those that say nothing."""
    pairs = (frozenset(pair) for pair in pairwise(words))
    return {pair for pair in pairs if len(pair) > 1 and not pair & _STOP and not any(map(str.isdigit, pair))}


def _day(text: str) -> date | None:
    with suppress(ValueError):
        return date.fromisoformat(text[:10])
    return None


def _dates(text: str) -> set[date | None]:
    """Return every day that a text may mean, in whichever order its parts are written."""
    lower = text.casefold()
    found = [*_DATE.findall(lower), *_DATE_IN_WORDS.findall(lower)]
    found += [tuple(filter(None, parts)) for parts in _COMPACT.findall(lower)]
    days: set[date | None] = set()
    for parts in found:
        numbers = [_MONTHS.get(part, 0) if not part.isdigit() else int(part) for part in parts]
        for year, month, day in ((0, 1, 2), (2, 1, 0), (2, 0, 1), (0, 2, 1)):
            with suppress(ValueError):
                days.add(date(numbers[year], numbers[month], numbers[day]))
    return days
