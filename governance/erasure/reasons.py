"""Reasons in people's words are kept for ever: they are refused where they hold what names a patient."""

from __future__ import annotations

import calendar
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from contextlib import closing, suppress
from datetime import date
from itertools import combinations, pairwise

from governance import belonging
from governance.access import Principal
from governance.audit import Action, AuditEvent
from governance.erasure.plain_words import words_in
from governance.keyuse import open_vault
from governance.vault import Identity, Vault
from governance.vault.opening import vault_id
from vitalake.errors import InputError, VitaLakeError
from vitalake.keys import KeyRing
from vitalake.settings import Settings

SHORTEST = 3
"""Letters of a word that is looked for alone; two that stand together, as in a name, are looked for however short."""

SHORTEST_NUMBER = 5
"""Digits of a number of an address that is looked for: a postal code, and not a house's number."""

_STOP = frozenset(
    "the and for not with from der die das und von mit den dem des ein eine fur les del della van zum zur "
    "mrs miss herr frau".split()
)
"""Words that tell nobody from others, though they stand in names."""

_TITLES = frozenset("mr mrs ms miss dr herr frau".split())

_BETWEEN = _STOP - frozenset("for not with from mit fur".split())
"""Those that may stand between two words of a name."""

_PLACEHOLDERS = frozenset(
    "patient patientin test testpatient demo dummy unknown unidentified anonymous unbekannt unbekannte unbekannter "
    "male female mannlich weiblich baby babyboy babygirl boy girl child infant newborn twin kind junge madchen "
    "neugeborenes neugeborene saugling device monitor simulator".split()
)
"""A name of these alone stands for one that is not known, or for nobody. Beside another word each is a name, and so is
one alone behind a title: "Frau Junge"."""

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
    alone = set(_without_articles(said))
    for identity in identities:
        counted = _telling(identity.name) & (_of_name(identity.name) | _titled(said))
        if counted & alone or _name_pairs(identity.name) & _pairs(said):
            raise _refused("a word of the patient's name", where)
        if (_telling(identity.address) - _PLACES) & set(said):
            raise _refused("a word of the patient's address", where)
        if identity.birth_date and _day(identity.birth_date) in _dates(reason):
            raise _refused("the patient's date of birth", where)


def named_by(reason: str, vault: Vault) -> tuple[str, frozenset[str]] | None:
    """Return by what a reason, which is of no patient, names some whom the vault knows, and their pseudonyms.

    That is by an id, in upper or lower case and with or without the system before it, or by two words of a name that
    stand side by side: among many patients some is called like any word, and like any two of a sentence. None: it names
    nobody; of the erased there is no pseudonym.

    Raises:
        KeyRevoked, ServiceUnavailable: the vault does not open.
    """
    words = _whole_words(reason)
    if vault.knows({form for word in words for form in (word, word.lower(), word.upper())}):
        named = _of_ids(words, vault)
        with suppress(VitaLakeError):  # the keys cannot be had; an id is one without them
            named |= _of_otherwise_written(words, vault) | _of_names(reason, vault)
        return "an id or a number of a patient", named
    # Of the erased no number is known any more; but the systems of others are.
    behind = {f"{system}{word}" for system in _systems(vault) for word in words} if words else ()
    if (named := _of_otherwise_written(words, vault)) or vault.knows(behind):
        return "an id or a number of a patient", named | _of_names(reason, vault)
    named = _of_names(reason, vault)
    return ("the name of a patient", named) if named else None


def refuse_others(reason: str, vault: Vault, *, where: str = "--reason") -> None:
    """Stop where a reason names any patient whom the vault knows, by what named_by tells.

    Raises:
        InputError: it does; what it holds is not echoed.
    """
    if (found := named_by(reason, vault)) is not None:
        raise _refused(found[0], where)


def _whole_words(reason: str) -> set[str]:
    """Return what may be an id in a reason; with its system, too, which no word has."""
    composed = {word.strip(".,;:()\"'") for word in reason.split() if "|" in word}
    return words_in(reason.encode()) | composed


def _of_ids(words: Iterable[str], vault: Vault) -> frozenset[str]:
    tokens, numbers = vault.tokens(), set[str | None]()
    with suppress(VitaLakeError):  # as above
        numbers = {vault.token_of_mrn(word) for word in words}
    return frozenset(token for token in {tokens.get(vault.subject_of(word)) for word in words} | numbers if token)


def _of_otherwise_written(words: Collection[str], vault: Vault) -> frozenset[str]:
    """Return the pseudonyms of those whose id or record number is there in another case, or without its system."""
    said = {word.casefold() for word in words}
    if not said:
        return frozenset()
    tokens = vault.tokens()
    numbers = [*vault.patient_ids(tokens).items()]
    numbers += [(vault.subject_of(who.source_id), who.mrn) for who in vault.identities() if who.mrn]
    named = {who for who, number in numbers if not said.isdisjoint(_forms(number))}
    return frozenset(tokens[who] for who in named & tokens.keys())


def _systems(vault: Vault) -> set[str]:
    """Return the systems before patients' ids, with the mark between."""
    ids = vault.patient_ids(vault.tokens()).values()
    return {number.removesuffix(number.rpartition("|")[2]) for number in ids} - {""}


def _forms(number: str) -> set[str]:
    """Return a number without regard to case, and what stands in it behind the system."""
    return {number.casefold(), number.rpartition("|")[2].casefold()}


def _of_names(reason: str, vault: Vault) -> frozenset[str]:
    if not (pairs := _pairs(_words(reason))):
        return frozenset()
    named = {vault.subject_of(who.source_id) for who in vault.identities() if _name_pairs(who.name) & pairs}
    tokens = vault.tokens() if named else {}
    return frozenset(tokens[who] for who in named & tokens.keys())


def refuse_naming_if_known(
    reason: str,
    settings: Settings,
    keys: KeyRing,
    *,
    where: str,
    wanted: Action,
    by: Principal,
    record: Callable[[AuditEvent], object],
    unaudited: bool = False,
) -> None:
    """Stop where a reason, which is of no patient, names one, and the vault opens.

    What has such a reason must not wait for the vault, such as the withdrawal of a score. A refusal says that somebody
    is a patient, so it is on record before it is said.

    Args:
        reason: in somebody's words.
        settings: of the home.
        keys: its key file's.
        where: it was given.
        wanted: what the reason is for.
        by: whose reason it is.
        record: takes the record of a refusal.
        unaudited: the audit may take no record, so the use of the keys is not recorded.

    Raises:
        InputError: the reason names a patient; what it holds is not echoed.
        VitaLakeError: the refusal cannot be recorded.
    """
    found = None
    with suppress(VitaLakeError):
        if vault_id(settings):
            purpose = "reason"
            opened = belonging.open_vault(settings, keys) if unaudited else open_vault(settings, keys, purpose=purpose)
            with closing(opened) as vault:
                found = named_by(reason, vault)
    if found is not None:
        what, patients = found
        detail = {"permission": wanted, "reason": "names"}
        record(AuditEvent("denied", by.subject, by.role, tuple(sorted(patients)), detail))
        raise _refused(what, where)


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


def _without_articles(words: list[str]) -> list[str]:
    """Return the words without the "art" of an article's number, which is no given name."""
    behind = zip(words, [*words[1:], ""], strict=True)
    return [word for word, after in behind if not (word == "art" and after[:1].isdigit())]


def _pairs(words: list[str]) -> set[frozenset[str]]:
    """Return words that stand side by side, in whichever order; initials and the like may stand between them."""
    whole = [word for word in words if not _is_initial(word)]
    kept = [word for word in whole if word not in _BETWEEN]
    return {frozenset(pair) for pair in (*pairwise(whole), *pairwise(kept))}


def _of_name(name: str | None) -> set[str]:
    """Return the words of a name, but for those that say nothing; none of one that stands for nobody."""
    words = {word for word in _words(name) if not word.isdigit()} - _STOP
    is_titled = len(words) == 1 and words <= _titled(_words(name))
    return set() if words <= _PLACEHOLDERS and not is_titled else words


def _titled(words: list[str]) -> set[str]:
    """Return the words that stand behind a title."""
    return {word for title, word in pairwise(words) if title in _TITLES}


def _name_pairs(name: str | None) -> set[frozenset[str]]:
    """Return any two words of a name that say something together; with "Herr" or "Van" if there is one other only."""
    words = {word for word in _of_name(name) if not _is_initial(word)}
    if len(words) == 1:
        words = {word for word in _words(name) if not (word.isdigit() or _is_initial(word))}
    pairs = map(frozenset, combinations(words, 2))
    return {pair for pair in pairs if pair - _PLACEHOLDERS - _STOP or (pair & _PLACEHOLDERS and pair & _TITLES)}


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
