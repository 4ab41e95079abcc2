"""Checks the databases of a home for damage."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vitalake.errors import VitaLakeError
    from vitalake.settings import Settings


def damaged_databases(settings: Settings) -> list[VitaLakeError]:
    """Return what is wrong with the vault and the stores of personal data that are files; empty: nothing.

    Raises:
        PrivacyError: a store is not registered.
    """
    from vitalake.errors import VitaLakeError

    found: list[VitaLakeError] = []
    for check in _checks():
        try:
            check(settings)
        except VitaLakeError as error:
            found.append(error)
    return found


def _checks() -> Iterator[Callable[[Settings], None]]:
    from governance.erasure.stores import personal_stores

    yield _check_vault
    for store in personal_stores().values():
        yield store.look


def _check_vault(settings: Settings) -> None:
    from governance.vault.on_sqlite import REPAIR
    from governance.vault.opening import vault_file
    from vitalake.sqlite import check_integrity

    if file := vault_file(settings):
        check_integrity(file, "Vault", repair=REPAIR)
