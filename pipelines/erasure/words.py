"""Reasons in people's words are kept for ever: they are refused where they hold what names a patient."""

from __future__ import annotations

import calendar
import re
import unicodedata
from collections.abc import Iterable
from contextlib import closing, suppress
from datetime import date
from itertools import combinations, pairwise

from governance.access import Principal
from governance.audit import Action, AuditEvent, AuditSink
from governance.keyuse import open_vault
from pipelines.decoding.naming import words_in
from vitalake import belonging
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

_BETWEEN = _STOP - frozenset("for not with from mit fur".split())
"""Those that may stand between two words of a name."""

_PLACEHOLDERS = frozenset(
    "patient patientin test testpatient demo dummy unknown unidentified anonymous unbekannt unbekannte unbekannter "
    "male female mannlich weiblich baby babyboy babygirl boy girl child infant newborn twin kind junge madchen "
    "neugeborenes neugeborene saugling device monitor simulator".split()
)
"""Nor do these, which stand for a name that is not known, or of nobody."""

_PLACES = frozenset(
    "street road avenue lane drive court place square way park house flat floor building close terrace ward "
    "strasse str weg platz allee gasse haus hof rue via calle north south east west upper lower new old saint".split()
)
"""Nor do these, which stand in addresses."""

_GERMAN = "januar februar märz april mai juni juli august september oktober november dezember".split()
_MONTHS = {name: number for names in (calendar.month_name[1:], _GERMAN) for number, name in
           enumerate(map(str.casefold, names), 1)}  # fmt: skip
_NUMBERED = {*_MONTHS, *"art article artikel section sections para paragraph absatz abs rule no nr page".split()}
"""Nor do these, beside a number."""

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
    alone = set(_without_numbered(said))
    for identity in identities:
        if (_telling(identity.name) - _PLACEHOLDERS) & alone or _name_pairs(identity.name) & _pairs(said):
            raise _refused("a word of the patient's name", where)
        if (_telling(identity.address) - _PLACES) & set(said):
            raise _refused("a word of the patient's address", where)
        if identity.birth_date and _day(identity.birth_date) in _dates(reason):
            raise _refused("the patient's date of birth", where)


def refuse_naming_anybody(reason: str, vault: Vault, *, where: str) -> None:
    """Stop where a reason, which is of no patient, names one whom the vault knows.

    That is by an id, or by two words of a name that stand side by side: among many patients some is called like any
    word, and like any two of a sentence.

    Raises:
        InputError: it does; what it holds is not echoed.
        KeyRevoked, ServiceUnavailable: the vault does not open.
    """
    if vault.knows(words_in(reason.encode())):
        raise _refused("an id or a number of a patient", where)
    pairs = _pairs(_words(reason))
    if pairs and any(_name_pairs(identity.name) & pairs for identity in vault.identities()):
        raise _refused("the name of a patient", where)


def refuse_naming_if_known(
    reason: str,
    settings: Settings,
    keys: KeyRing,
    *,
    where: str,
    wanted: Action,
    by: Principal,
    audit: AuditSink | None,
) -> None:
    """Do the same where the vault opens: for what must not wait for it, such as the withdrawal of a score.

    A refusal says that somebody is a patient, so it is on record before it is said.

    Args:
        reason: in somebody's words.
        settings: of the home.
        keys: its key file's.
        where: it was given.
        wanted: what the reason is for.
        by: whose reason it is.
        audit: takes the record; None: it may not hold, so that neither this nor the use of the keys is recorded.

    Raises:
        InputError: the reason names a patient.
        VitaLakeError: the refusal cannot be recorded.
    """
    try:
        if not vault_id(settings):
            return
        opened = belonging.open_vault(settings, keys) if audit is None else open_vault(settings, keys, purpose="reason")
        with closing(opened) as vault:
            refuse_naming_anybody(reason, vault, where=where)
    except InputError:
        if audit is not None:
            audit.record(denied(wanted, by))
        raise
    except VitaLakeError:
        return


def denied(wanted: Action, by: Principal) -> AuditEvent:
    """Return the record of a reason that was refused since it names a patient.

    Args:
        wanted: what the reason was for.
        by: whose it was.
    """
    return AuditEvent("denied", by.subject, by.role, (), {"permission": wanted, "reason": "names"})


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


def _without_numbered(words: list[str]) -> list[str]:
    """Return the words but for those that belong to a number beside them, such as the month of a day."""
    beside = zip(["", *words], [*words[1:], ""], strict=False)
    return [
        word
        for word, around in zip(words, beside, strict=True)
        if not (word in _NUMBERED and any(map(str.isdigit, around)))
    ]


def _pairs(words: list[str]) -> set[frozenset[str]]:
    """Return words that stand side by side, in whichever order; initials and the like may stand between them."""
    kept = [word for word in words if word not in _BETWEEN and not _is_initial(word)]
    return {frozenset(pair) for pair in pairwise(kept)}


def _name_pairs(name: str | None) -> set[frozenset[str]]:
    """Return any two words of a name, but for those that say nothing."""
    words = {word for word in _words(name) if not (word.isdigit() or _is_initial(word))}
    return set(map(frozenset, combinations(words - _STOP - _PLACEHOLDERS, 2)))


def _is_initial(word: str) -> bool:
    return len(word) == 1 and word.isascii() and word.isalpha()


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
