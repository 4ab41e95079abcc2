"""Packages register pages: an unusable one is refused by name, and no page's code gets around the server's checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from governance.audit import latest
from models.serving.pages import Page, PageRequest, Shown
from models.serving.pages.mounting import MountedPages
from models.serving.pages.registry import GROUP, registered_pages
from tests.contract.pages import BROWSER, PageContract
from tests.plugged import packages, plug
from tests.services.serving import STABLE, WardUnderTest, serving
from vitalake.errors import InputError, SettingsError
from vitalake.settings import Settings

PAGE = """
from models.serving.pages import Page, Shown

IT = Page(
    name="{name}", path="{path}", title="{title}", permission="{permission}", description="x", patients="{patients}",
    template="models.serving:sign_in.html", make=lambda settings: lambda request: Shown({{}}),
)
"""


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A folder on Python's path."""
    with packages(tmp_path) as folder:
        yield folder


def _text(**changes: str) -> str:
    told = {"name": "beds", "path": "/beds", "title": "Beds", "permission": "ledger:read", "patients": "none"}
    return PAGE.format(**told | changes)


def test_ours_come_first_and_those_of_others_by_name(path: Path) -> None:
    assert [page.path for page in registered_pages()] == ["/board", "/ledger", "/audit"]
    for name in ("units", "beds"):
        plug(path, GROUP, _text(name=name, path=f"/{name}"), name, package=name)
    assert [page.name for page in registered_pages()] == ["board", "ledger", "audit", "beds", "units"]


def test_pages_of_one_package_share_the_first_part_of_their_paths(path: Path) -> None:
    plug(path, GROUP, _text(), "beds")
    plug(path, GROUP, _text(name="bed", path="/beds/{patient}", patients="one"), "bed")
    assert {page.path for page in registered_pages()} > {"/beds", "/beds/{patient}"}
    plug(path, GROUP, _text(name="other", path="/beds/{patient}", patients="one"), "other", package="other")
    with pytest.raises(SettingsError, match=r"in use already, by hospital: .* other = .*, of other 1\.0\."):
        registered_pages()


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("IT = 1", "beds", "is not a Page"),
        ("raise ValueError('Zzmarker')", "beds", r"cannot be loaded \(ValueError\)"),
        (_text(name="other"), "beds", "another name than its entry point"),
        (_text(name="board"), "board", "under one name"),
        (_text(name="Bed's", path="/beds"), "Bed's", "a name that is not of small letters"),
        *(
            (_text(path=taken), "beds", "a path that is in use already, by vitalake")
            for taken in ("/board", "/ledger", "/audit", "/patients", "/sign-in", "/session", "/static", "/v1", "/fhir")
        ),
        (_text(path="/patients/{patient}", patients="one"), "beds", "a path that is in use already, by vitalake"),
        *(
            (_text(path=wrong), "beds", "a path that is neither")
            for wrong in (
                "beds",
                "/",
                "/Beds",
                "/beds/",
                "/beds/x",
                "/{patient}",
                "/beds/{patient}/x",
                "/beds/{p:path}",
            )
        ),
        (_text(permission="admin"), "beds", "a permission that does not exist"),
        (_text(patients="some"), "beds", "about one patient"),
        (_text(patients="one"), "beds", "about one patient"),
        (_text(path="/beds/{patient}"), "beds", "about one patient"),
        (_text(title=""), "beds", "no title"),
        ("from models.serving.pages.ours import BOARD as IT", "board-2", "another name than its entry point"),
        (
            "from dataclasses import replace\nfrom models.serving.pages.ours import BOARD\n"
            "IT = replace(BOARD, name='beds', path='/beds')",
            "beds",
            "routes of its own",
        ),
    ],
)
def test_one_that_is_none_is_refused_and_named(path: Path, text: str, name: str, said: str) -> None:
    plug(path, GROUP, text, name)
    with pytest.raises(SettingsError, match=rf"{said}.*entry point vitalake\.pages: {name} = ") as refused:
        registered_pages()
    assert "Zzmarker" not in str(refused.value) and refused.value.__cause__ is None


def _page(show: Callable[[PageRequest], Any], **changes: Any) -> Page:
    told: dict[str, Any] = {
        "name": "beds", "path": "/beds", "title": "Beds", "permission": "risk:read", "description": "x",
        "patients": "several", "template": "models.serving:problem.html", "make": lambda _settings: show,
    }  # fmt: skip
    return Page(**told | changes)


def _shown(*patients: str) -> Shown:
    """Return what the template of problems shows."""
    problem = {"detail": ", ".join(patients) or "nobody", "more": {}}
    return Shown({"title": "Beds", "problem": problem}, patients=patients)


def _fails(_settings: Settings) -> Callable[[PageRequest], Shown]:
    raise ValueError("Zzmarker")


@pytest.mark.parametrize(
    "changes",
    [
        {"template": "models.serving:none.html"},
        {"template": "none_such:beds.html"},
        {"template": "models.tasks:beds.html"},
        {"make": _fails},
    ],
)
def test_one_that_cannot_be_made_ends_the_start_without_its_text(changes: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"cannot be made \(\w+\): page beds\.") as refused:
        MountedPages([_page(lambda _request: _shown(), **changes)], Settings())
    assert "Zzmarker" not in str(refused.value) and refused.value.__cause__ is None


# -- what a page's code does while it is served ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> WardUnderTest:
    """A home with two patients."""
    from governance.home import init_home
    from governance.samples import copy_samples

    home = tmp_path_factory.mktemp("ward") / "home"
    init_home(home, copy_samples)
    found = WardUnderTest(home)
    for name in ("p-0", "p-1"):
        found.measure(found.admit(name), STABLE)
    return found


@contextmanager
def _asking(ward: WardUnderTest, *pages: Page) -> Iterator[Callable[[str], httpx.Response]]:
    served = serving(ward.settings, pages=(*registered_pages(), *pages))
    with served as found, httpx.Client(base_url=found.address, timeout=20) as client:
        yield lambda path: client.get(path, headers=ward.bearer() | BROWSER)


def _raises(error: Exception) -> Any:
    raise error


def test_a_page_that_says_something_wrong_is_not_sent(ward: WardUnderTest) -> None:
    patient = ward.token("p-0")
    wrong: dict[str, Callable[[PageRequest], Any]] = {
        "unsaid": lambda _request: Shown(_shown(patient).context),
        "number": lambda _request: _shown("Zz4711"),
        "dict": lambda _request: {"patients": (patient,)},
        "bug": lambda _request: _raises(ValueError(patient)),
        "error": lambda _request: _raises(InputError("There is no lake yet", where=patient)),
        "nothing": lambda _request: None,
    }
    statuses = {"bug": 500, "nothing": 404}
    pages = [_page(show, name=name, path=f"/{name}") for name, show in wrong.items()]
    nobody = _page(lambda _request: _shown(patient), name="nobody", path="/nobody", patients="none")
    with _asking(ward, *pages, nobody) as ask:
        for name in (*wrong, "nobody"):
            answer = ask(f"/{name}")
            assert answer.status_code == statuses.get(name, 503), name
            assert patient not in answer.text and "Zz4711" not in answer.text
        assert "There is no lake yet." in ask("/error").text
        assert ask("/board").status_code == 200, "the other pages go on"
    for file in ward.settings.path(ward.settings.audit).iterdir():
        assert "Zz4711" not in file.read_text()


@pytest.mark.parametrize("kind", [iter, set, list, lambda named: (name for name in named)])
def test_whom_a_page_shows_is_recorded_however_it_names_them(
    ward: WardUnderTest, kind: Callable[[tuple[str, ...]], Any]
) -> None:
    """A generator was exhausted by the check, so the audit named nobody."""
    patients = (ward.token("p-0"), ward.token("p-1"))
    beds = _page(lambda _request: Shown(_shown(*patients).context, patients=kind(patients)))
    with _asking(ward, beds) as ask:
        assert all(patient in ask("/beds").text for patient in patients)
    newest = latest(ward.settings.path(ward.settings.audit), ward.keys, limit=1)
    assert [(one.action, one.detail["page"], one.patients) for one in newest] == [("page.read", "beds", 2)]


def test_nothing_of_a_page_runs_before_its_access_is_recorded(ward: WardUnderTest) -> None:
    patients = (ward.token("p-0"), ward.token("p-1"))
    recorded: list[list[tuple[str, int]]] = []

    def records() -> list[tuple[str, int]]:
        seen = latest(ward.settings.path(ward.settings.audit), ward.keys, limit=10_000)
        return [(one.detail["page"], one.patients) for one in seen if one.action == "page.read"]

    def show(request: PageRequest) -> Shown:
        recorded.append(records()[before:])
        assert request.principal.role == "clinician"
        return _shown(*(patients if not request.patient else ()))

    beds = _page(show)
    bed = _page(show, name="bed", path="/beds/{patient}", patients="one")
    before = len(records())
    with _asking(ward, beds, bed) as ask:
        assert ask("/beds?unit=icu").status_code == 200
        assert recorded == [[("beds", 0)]], "that it was opened, before its code ran"
        assert records()[before:] == [("beds", 0), ("beds", 2)], "and whom it shows, before it is sent"
        before = len(records())
        assert ask(f"/beds/{patients[0]}").status_code == 200
        assert recorded[1:] == [[("bed", 1)]] and records()[before:] == [("bed", 1)]


def test_only_the_page_itself_is_marked_in_the_navigation(ward: WardUnderTest) -> None:
    beds = _page(lambda _request: _shown(), name="board-2", path="/board-2")
    with _asking(ward, beds) as ask:
        assert '<a href="/board-2" aria-current="page">' in ask("/board-2").text
        assert '<a href="/board">' in ask("/board-2").text


class TestOfOnePatient(PageContract):
    """A page about one patient."""

    page: ClassVar = _page(lambda request: _shown(), path="/beds/{patient}", patients="one")


class TestOfSeveralPatients(PageContract):
    """A page of several patients, which has found nobody."""

    page: ClassVar = _page(lambda request: _shown())
