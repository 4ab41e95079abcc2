"""The databases of a home, looked at for damage."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vitalake.errors import VitaLakeError
    from vitalake.settings import Settings


def damaged_databases(settings: Settings) -> list[VitaLakeError]:
    """Return what is wrong with the vault and every store of personal data, as far as they are files; empty: nothing.

    Raises:
        PrivacyError: a store is not registered.
    """
    from vitalake.errors import VitaLakeError

    found: list[VitaLakeError] = []
    for look in _looks():
        try:
            look(settings)
        except VitaLakeError as error:
            found.append(error)
    return found


def _looks() -> Iterator[Callable[[Settings], None]]:
    from governance.erasure.stores import personal_stores

    yield _look_at_vault
    for store in personal_stores().values():
        yield store.look


def _look_at_vault(settings: Settings) -> None:
    from governance.vault.on_sqlite import REPAIR
    from governance.vault.opening import vault_file
    from vitalake.sqlite import look_at

    if file := vault_file(settings):
        look_at(file, "Vault", repair=REPAIR)
