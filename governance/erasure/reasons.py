"""Refuses a reason that names a patient: reasons are kept in clear text for ever, and no erasure reaches them."""

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
"""Letters of a word that counts alone; two words side by side, as in a name, count however short they are."""

SHORTEST_NUMBER = 5
"""Digits that a number of an address needs to count: a postal code has them, a house number has not."""

_STOP = frozenset(
    "the and for not with from der die das und von mit den dem des ein eine fur les del della van zum zur "
    "mrs miss herr frau".split()
)
"""Words that occur in names but identify nobody."""

_TITLES = frozenset("mr mrs ms miss dr herr frau".split())

_BETWEEN = _STOP - frozenset("for not with from mit fur".split())
"""Stop words that may stand between two words of a name."""

_PLACEHOLDERS = frozenset(
    "patient patientin test testpatient demo dummy unknown unidentified anonymous unbekannt unbekannte unbekannter "
    "male female mannlich weiblich baby babyboy babygirl boy girl child infant newborn twin kind junge madchen "
    "neugeborenes neugeborene saugling device monitor simulator".split()
)
"""A name made only of these words is a placeholder for an unknown or invented patient. Beside another word each is a
name, and so is one alone behind a title: "Frau Junge"."""

_PLACES = frozenset(
    "street road avenue lane drive court place square way park house flat floor building close terrace ward "
    "strasse str weg platz allee gasse haus hof rue via calle north south east west upper lower new old saint".split()
)
"""Words that occur in addresses but identify nobody."""

_GERMAN = "januar februar märz april mai juni juli august september oktober november dezember".split()
_MONTHS = {name: number for names in (calendar.month_name[1:], _GERMAN) for number, name in
           enumerate(map(str.casefold, names), 1)}  # fmt: skip
_DATE = re.compile(r"(?<!\d)(\d{1,4})\W{1,3}(\d{1,2}|[^\W\d]{3,9})\W{1,3}(\d{1,4})(?!\d)")
_DATE_IN_WORDS = re.compile(r"([^\W\d]{3,9})\W{1,3}(\d{1,2})(?:st|nd|rd|th)?\W{1,3}(\d{4})(?!\d)")
_COMPACT = re.compile(r"(?<!\d)(?:(\d{4})(\d\d)(\d\d)|(\d\d)(\d\d)(\d{4}))(?!\d)")


def refuse_naming(
    reason: str, names: Iterable[str], identities: Iterable[Identity] = (), *, where: str = "--reason"
) -> None:
    """Refuse a reason that contains an id, number or pseudonym of a patient, or words of the patient's identity.

    Accents and case make no difference.

    Args:
        reason: in somebody's words.
        names: the patient's ids, numbers and pseudonyms.
        identities: the patient's name, birth date and address.
        where: the option or field in which the reason was given.

    Raises:
        InputError: the reason contains one. The error does not repeat it.
    """
    parts = {part for name in names for part in (name, name.rpartition("|")[2]) if part}
    if any(re.search(rf"(?<!\w){re.escape(part)}(?!\w)", reason, re.IGNORECASE) for part in parts):
        raise _refused("an id or a number of the patient", where)
    said = _words(reason)
    alone = set(_without_articles(said))
    for identity in identities:
        name_words = _identifying(identity.name) & (_words_of_name(identity.name) | _titled(said))
        if name_words & alone or _name_pairs(identity.name) & _pairs(said):
            raise _refused("a word of the patient's name", where)
        if (_identifying(identity.address) - _PLACES) & set(said):
            raise _refused("a word of the patient's address", where)
        if identity.birth_date and _day(identity.birth_date) in _dates(reason):
            raise _refused("the patient's date of birth", where)


def named_by(reason: str, vault: Vault) -> tuple[str, frozenset[str]] | None:
    """Return how a reason that concerns no single patient names patients of the vault, and their pseudonyms.

    A reason names a patient by an id, in upper or lower case and with or without the system before it, or by two words
    of a name that stand side by side. One word, or two words anywhere in a sentence, do not count: among many patients
    somebody has almost any word as a name. None: the reason names nobody. Erased patients have no pseudonym here.

    Raises:
        KeyRevoked, ServiceUnavailable: the vault does not open.
    """
    words = _whole_words(reason)
    if vault.knows({form for word in words for form in (word, word.lower(), word.upper())}):
        named = _of_ids(words, vault)
        with suppress(VitaLakeError):  # without the keys, the text still is an id of a patient
            named |= _of_other_spellings(words, vault) | _of_names(reason, vault)
        return "an id or a number of a patient", named
    # The numbers of erased patients are no longer known: try each word behind the systems of the other patients.
    behind = {f"{system}{word}" for system in _systems(vault) for word in words} if words else ()
    if (named := _of_other_spellings(words, vault)) or vault.knows(behind):
        return "an id or a number of a patient", named | _of_names(reason, vault)
    named = _of_names(reason, vault)
    return ("the name of a patient", named) if named else None


def refuse_others(reason: str, vault: Vault, *, where: str = "--reason") -> None:
    """Refuse a reason that names any patient whom the vault knows; see ``named_by``.

    Raises:
        InputError: the reason names a patient. The error does not repeat it.
    """
    if (named := named_by(reason, vault)) is not None:
        raise _refused(named[0], where)


def _whole_words(reason: str) -> set[str]:
    """Return the words of a reason that may be ids, and composed ids with their system (``system|id``)."""
    composed = {word.strip(".,;:()\"'") for word in reason.split() if "|" in word}
    return words_in(reason.encode()) | composed


def _of_ids(words: Iterable[str], vault: Vault) -> frozenset[str]:
    tokens, numbers = vault.tokens(), set[str | None]()
    with suppress(VitaLakeError):  # without the keys, as in named_by
        numbers = {vault.token_of_mrn(word) for word in words}
    return frozenset(token for token in {tokens.get(vault.subject_of(word)) for word in words} | numbers if token)


def _of_other_spellings(words: Collection[str], vault: Vault) -> frozenset[str]:
    """Return the pseudonyms of patients whose id or record number appears in another case, or without its system."""
    said = {word.casefold() for word in words}
    if not said:
        return frozenset()
    tokens = vault.tokens()
    numbers = [*vault.patient_ids(tokens).items()]
    numbers += [(vault.subject_of(who.source_id), who.mrn) for who in vault.identities() if who.mrn]
    named = {who for who, number in numbers if not said.isdisjoint(_forms(number))}
    return frozenset(tokens[who] for who in named & tokens.keys())


def _systems(vault: Vault) -> set[str]:
    """Return the systems of patients' ids, each with the mark that follows it."""
    ids = vault.patient_ids(vault.tokens()).values()
    return {number.removesuffix(number.rpartition("|")[2]) for number in ids} - {""}


def _forms(number: str) -> set[str]:
    """Return a number in lower case, with and without its system."""
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
    """Refuse a reason that concerns no single patient and names one; accept it if the vault cannot be opened.

    An action with such a reason, for example the withdrawal of a score, must not wait for the vault. A refusal reveals
    that somebody is a patient, so it is recorded in the audit before it is shown.

    Args:
        reason: in somebody's words.
        settings: of the home.
        keys: its key file's.
        where: the option or field in which the reason was given.
        wanted: the action that the reason is for.
        by: the account that gave the reason.
        record: records the refusal.
        unaudited: do not record the use of the keys, because the audit may accept no record now.

    Raises:
        InputError: the reason names a patient. The error does not repeat it.
        VitaLakeError: the refusal cannot be recorded.
    """
    named = None
    with suppress(VitaLakeError):
        if vault_id(settings):
            purpose = "reason"
            opened = belonging.open_vault(settings, keys) if unaudited else open_vault(settings, keys, purpose=purpose)
            with closing(opened) as vault:
                named = named_by(reason, vault)
    if named is not None:
        what, patients = named
        detail = {"permission": wanted, "reason": "names"}
        record(AuditEvent("denied", by.subject, by.role, tuple(sorted(patients)), detail))
        raise _refused(what, where)


def _refused(what: str, where: str) -> InputError:
    return InputError(
        f"Reason contains {what}",
        where=where,
        remedy="Reasons are kept in clear text: give a number instead, such as the number of the request.",
    )


def _words(text: str | None) -> list[str]:
    """Return the words of a text in lower case, without accents."""
    plain = unicodedata.normalize("NFKD", (text or "").casefold())
    bare = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.findall(r"[^\W_]+", bare)


def _identifying(text: str | None) -> set[str]:
    """Return the words that may identify a person."""
    return {
        word
        for word in _words(text)
        if len(word) >= (SHORTEST_NUMBER if word.isdigit() else SHORTEST) and word not in _STOP
    }


def _without_articles(words: list[str]) -> list[str]:
    """Return the words without "art" before a number: there it means an article of a law, not a given name."""
    behind = zip(words, [*words[1:], ""], strict=True)
    return [word for word, after in behind if not (word == "art" and after[:1].isdigit())]


def _pairs(words: list[str]) -> set[frozenset[str]]:
    """Return each pair of words that stand side by side, in either order; initials between them are ignored."""
    whole = [word for word in words if not _is_initial(word)]
    without_particles = [word for word in whole if word not in _BETWEEN]
    return {frozenset(pair) for pair in (*pairwise(whole), *pairwise(without_particles))}


def _words_of_name(name: str | None) -> set[str]:
    """Return the identifying words of a name; none if the name is only a placeholder."""
    words = {word for word in _words(name) if not word.isdigit()} - _STOP
    is_titled = len(words) == 1 and words <= _titled(_words(name))
    return set() if words <= _PLACEHOLDERS and not is_titled else words


def _titled(words: list[str]) -> set[str]:
    """Return the words that follow a title."""
    return {word for title, word in pairwise(words) if title in _TITLES}


def _name_pairs(name: str | None) -> set[frozenset[str]]:
    """Return each identifying pair of words of a name; titles and particles pair only with a single other word."""
    words = {word for word in _words_of_name(name) if not _is_initial(word)}
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
    """Return every day that a date in a text may mean, in any order of year, month and day."""
    lower = text.casefold()
    matches = [*_DATE.findall(lower), *_DATE_IN_WORDS.findall(lower)]
    matches += [tuple(filter(None, parts)) for parts in _COMPACT.findall(lower)]
    days: set[date | None] = set()
    for parts in matches:
        numbers = [_MONTHS.get(part, 0) if not part.isdigit() else int(part) for part in parts]
        for year, month, day in ((0, 1, 2), (2, 1, 0), (2, 0, 1), (0, 2, 1)):
            with suppress(ValueError):
                days.add(date(numbers[year], numbers[month], numbers[day]))
    return days
