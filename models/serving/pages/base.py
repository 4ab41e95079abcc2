"""Defines a page of the server: its address, who may open it, whose data it shows, and the function that finds them.

The project's pages and those of other packages are made in the same way: a ``Page`` in a module of its own, and a line
under ``vitalake.pages`` in the entry points of the package. docs/how-to/write-a-page.md shows an example. A page does
not handle HTTP: ``mounting.py`` checks sign-in and permission, and records the access, before it calls the function.

Importing this module is cheap, and needs no web framework: ``vitalake doctor`` imports pages where nothing is served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from governance.access import Permission, Principal
from vitalake.settings import Settings

if TYPE_CHECKING:
    from fastapi import APIRouter

PATIENT = "/{patient}"
"""The end of the path of a page about one patient."""

Patients = Literal["none", "one", "several"]


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A request for a page, from somebody who may open it.

    Attributes:
        principal: who asks.
        patient: the patient's pseudonym, on a page about one patient; empty on every other page.
        query: the parameters of the address, each with its last value. Anybody can make such an address: compare the
            values with known ones, and do not show them.
    """

    principal: Principal
    patient: str = ""
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a page shows.

    Attributes:
        context: the template's variables.
        patients: pseudonyms of the patients whose data the context has. A page of several patients must give it, if
            only as an empty tuple; the access to each of them is recorded before the page is sent.
    """

    context: Mapping[str, Any]
    patients: tuple[str, ...] | None = None


Show = Callable[[PageRequest], Shown | None]
"""Finds what a page shows; None: there is nothing under this address (404). The server calls it in the page's thread,
for one request after the other.

Raises VitaLakeError if it cannot: the browser sees a sentence, and the log the place and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addressed:
    """What every page has.

    Attributes:
        name: the name of the entry point; also stands in the audit.
        path: ``/NAME``, or ``/NAME/{patient}`` for a page about one patient.
        title: in the navigation, which has every page but those about one patient, for roles that may open it.
        permission: what a role needs to open it.
        description: what it shows, in words.
    """

    name: str
    path: str
    title: str
    permission: Permission
    description: str

    @property
    def in_navigation(self) -> bool:
        """Return whether the navigation has the page: not if its address names a patient."""
        return not self.path.endswith(PATIENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Addressed):
    """A page of a template, as a package registers it.

    Attributes:
        patients: whose data it shows. ``none``: of no patient, so nothing is recorded. ``one``: of the patient in the
            address; the access is recorded before ``make``'s function is called. ``several``: of those that the
            function names; that the page was opened is recorded before, and each patient's name before it is sent.
        template: ``PACKAGE:FILE``: a file in the folder ``templates`` of the package. ``{% extends "base.html" %}``
            gives it the head and the navigation of the other pages.
        make: takes the settings and returns the function that finds what the page shows. It is called once, when the
            server starts.
    """

    patients: Patients
    template: str
    make: Callable[[Settings], Show]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedPage(Addressed):
    """A page of the project with routes of its own, which authorise and record each access themselves.

    A plug-in cannot register one, because nothing would see to it that its routes do.

    Attributes:
        router: imports and returns the routes.
    """

    router: Callable[[], APIRouter]
