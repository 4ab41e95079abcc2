"""The databases of a home, looked at for damage."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitalake.errors import VitaLakeError
    from vitalake.settings import Settings


def damaged_databases(settings: Settings) -> list[VitaLakeError]:
    """Return what is wrong with vault, care store and book of scores, as far as they are files; empty: nothing."""
    from models.serving import scores
    from vitalake.care import store
    from vitalake.errors import VitaLakeError
    from vitalake.sqlite import look_at
    from vitalake.vault import on_sqlite
    from vitalake.vault.opening import vault_file

    found: list[VitaLakeError] = []
    vault = vault_file(settings)
    for path, name, repair in (
        *([(vault, "Vault", on_sqlite.REPAIR)] if vault else []),
        (settings.path(settings.care.path), "Care store", store.REPAIR),
        (settings.path(scores.FILE), "Book of scores", scores.REPAIR),
    ):
        try:
            look_at(path, name, repair=repair)
        except VitaLakeError as error:
            found.append(error)
    return found
