"""The contract of a page of the server: derive a class from ``PageContract`` for each, as of MaskContract.

A page of one or several patients is asked while the ward has one patient; ``prepare`` makes whatever else it needs::

    from tests.contract.pages import PageContract

    class TestStaffing(PageContract):
        page = staffing.PAGE
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import httpx
import msgspec
import pytest

from governance.access import PERMISSIONS, ROLES, Role
from governance.audit import AuditEvent, Seen, latest, who_saw
from governance.home import init_home
from governance.samples import copy_samples
from models.serving.pages.base import PATIENT, Addressed, Page, RoutedPage
from models.serving.pages.registry import problem_of, registered_pages
from models.serving.problems import CHALLENGE, PROBLEM
from models.serving.security import HEADERS
from tests.services.serving import STABLE, WardUnderTest, serving
from vitalake.errors import ServiceUnavailable

BROWSER = {"accept": "text/html"}
MARKER = "Zzmarker"
NOBODY = "v1." + "a" * 32


class FullAudit:
    """An audit that cannot be written."""

    def record(self, event: AuditEvent) -> None:
        """See AuditSink."""
        self.record_all([event])

    def record_all(self, events: Sequence[AuditEvent]) -> None:
        """See BatchAuditSink."""
        raise ServiceUnavailable("Audit cannot be written", where="settings.audit", remedy="Free some space.")


@dataclass(frozen=True, slots=True)
class ServedPage:
    """A server that has the page.

    Attributes:
        ward: its home, with one patient.
        patient: the patient's pseudonym.
        client: asks the server.
        path: the page's, with the patient in it if it is about one.
    """

    ward: WardUnderTest
    patient: str
    client: httpx.Client
    path: str

    def get(self, role: Role | None = None, headers: dict[str, str] | None = None, path: str = "") -> httpx.Response:
        """Ask for a page; without a role without a token."""
        token = self.ward.bearer(role) if role else {}
        return self.client.get(path or self.path, headers=token | (headers or {}))

    def recorded(self) -> list[Seen]:
        """Return the audit's records, oldest first."""
        return latest(self.ward.settings.path(self.ward.settings.audit), self.ward.keys, limit=10_000)

    def seen(self) -> list[Seen]:
        """Return the records of accesses to the patient."""
        return who_saw(self.ward.settings.path(self.ward.settings.audit), self.ward.keys, self.patient)


class PageContract:
    """What every page must hold to.

    Attributes:
        page: the page; it need not be installed.
    """

    page: ClassVar[Addressed]

    @classmethod
    def prepare(cls, ward: WardUnderTest, patient: str) -> None:
        """Put into the home what the page shows; by default nothing beside the patient."""

    @pytest.fixture(scope="class")
    @classmethod
    def ward(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[WardUnderTest, str]:
        """A home with one patient, and the patient's pseudonym."""
        home = tmp_path_factory.mktemp("page") / "home"
        init_home(home, copy_samples)
        ward = WardUnderTest(home)
        patient = ward.admit("p-0", bed="Bed 1", name=f"{MARKER}, Name", mrn="M-0")
        ward.measure(patient, STABLE)
        cls.prepare(ward, patient)
        return ward, patient

    @pytest.fixture(scope="class")
    @classmethod
    def served(cls, ward: tuple[WardUnderTest, str]) -> Iterator[ServedPage]:
        """A server that has the page beside the registered ones."""
        with (
            serving(ward[0].settings, pages=cls._pages()) as found,
            httpx.Client(base_url=found.address, timeout=20) as client,
        ):
            yield ServedPage(*ward, client, cls.page.path.replace("{patient}", ward[1]))

    @classmethod
    def _pages(cls) -> list[Addressed]:
        return [*(page for page in registered_pages() if page.name != cls.page.name), cls.page]

    def _roles(self, *, may: bool) -> list[Role]:
        return [role for role in ROLES if (self.page.permission in PERMISSIONS[role]) == may]

    def _patients(self) -> str:
        return self.page.patients if isinstance(self.page, Page) else "themselves"

    def test_it_says_what_it_is(self) -> None:
        assert self.page.name and self.page.title and self.page.description
        assert isinstance(self.page, RoutedPage) or problem_of(self.page) == ""
        assert self._roles(may=True), "somebody may open it"

    def test_without_a_session_a_browser_is_sent_to_sign_in_and_a_program_refused(self, served: ServedPage) -> None:
        before = len(served.recorded())
        browser, program, wrong = (
            served.get(headers=BROWSER),
            served.get(),
            served.get(headers={"authorization": f"Bearer {MARKER}"}),
        )
        assert (browser.status_code, browser.headers["location"]) == (303, "/sign-in")
        for answer in (program, wrong):
            assert (answer.status_code, answer.headers["content-type"]) == (401, PROBLEM)
            assert answer.headers["www-authenticate"] == CHALLENGE
        for answer in (browser, program, wrong):
            assert served.patient not in answer.text and MARKER not in answer.text
        assert len(served.recorded()) == before

    def test_a_role_without_the_permission_is_refused_and_that_is_recorded(self, served: ServedPage) -> None:
        for role in self._roles(may=False):
            before = len(served.recorded())
            answer = served.get(role, BROWSER)
            assert answer.status_code == 403 and self.page.permission in answer.text
            assert msgspec.json.decode(served.get(role).content)["permission"] == self.page.permission
            fresh = served.recorded()[before:]
            assert [(one.action, one.role, one.detail["permission"]) for one in fresh] == [
                ("denied", role, self.page.permission)
            ] * 2
            assert MARKER not in answer.text

    def test_a_role_with_the_permission_sees_it_with_the_headers_of_every_page(self, served: ServedPage) -> None:
        for role in self._roles(may=True):
            answer = served.get(role, BROWSER)
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            assert {name: answer.headers[name] for name in HEADERS} == HEADERS
            assert answer.headers["cache-control"] == "no-store" and "set-cookie" not in answer.headers
            assert "Sign out" in answer.text, "it has the head of the other pages"

    def test_a_session_opens_it_and_its_end_closes_it(self, served: ServedPage) -> None:
        for role in self._roles(may=True):
            signed = served.client.post("/sign-in", data={"user": role})
            assert signed.status_code == 303
            assert served.get(headers=BROWSER).status_code == 200
            served.client.post("/sign-out")
            assert served.get(headers=BROWSER).status_code == 303

    def test_the_navigation_has_it_for_who_may_open_it(self, served: ServedPage) -> None:
        for role in ROLES:
            opened = served.get(role, BROWSER, path="/")
            shown = served.get(role, BROWSER, path=opened.headers["location"]).text
            expected = role in self._roles(may=True) and not self.page.path.endswith(PATIENT)
            assert (f'<a href="{self.page.path}"' in shown) == expected

    def test_only_reading_is_answered(self, served: ServedPage) -> None:
        if isinstance(self.page, RoutedPage):
            return
        for role in self._roles(may=True):
            for method in ("POST", "PUT", "DELETE", "OPTIONS"):
                answer = served.client.request(method, served.path, headers=served.ward.bearer(role))
                assert answer.status_code == 405

    def test_what_an_address_says_is_not_shown(self, served: ServedPage) -> None:
        parameters = "&".join(f"{name}={MARKER}" for name in ("q", "unit", "day", "patient", "page", MARKER))
        for role in self._roles(may=True):
            answer = served.get(role, BROWSER, path=f"{served.path}?{parameters}")
            assert answer.status_code in (200, 404, 422) and f"={MARKER}" not in answer.text
            assert f">{MARKER}<" not in answer.text and f'"{MARKER}"' not in answer.text

    def test_every_access_to_a_patient_is_recorded(self, served: ServedPage) -> None:
        for role in self._roles(may=True):
            before, known = len(served.recorded()), len(served.seen())
            answer = served.get(role, BROWSER)
            fresh = [one for one in served.recorded()[before:] if one.action == "page.read"]
            assert all(one.role == role and one.detail["page"] == self.page.name for one in fresh)
            match self._patients():
                case "none":
                    assert not fresh and served.patient not in answer.text
                case "one":
                    assert [one.patients for one in fresh] == [1]
                case "several":
                    assert fresh[0].patients == 0, "that it was opened"
            if served.patient in answer.text:
                assert len(served.seen()) > known, "it shows the patient, so that is on record"

    def test_an_access_that_cannot_be_recorded_shows_nothing(self, ward: tuple[WardUnderTest, str]) -> None:
        if self._patients() not in ("one", "several"):
            return
        (found, patient), role = ward, self._roles(may=True)[0]
        path = self.page.path.replace("{patient}", patient)
        with (
            serving(found.settings, pages=self._pages(), audit=FullAudit()) as served,
            httpx.Client(base_url=served.address, timeout=20) as client,
        ):
            answer = client.get(path, headers=found.bearer(role) | BROWSER)
            assert answer.status_code == 503 and patient not in answer.text

    def test_of_a_patient_who_is_none_the_page_is_not_asked(self, served: ServedPage) -> None:
        if self._patients() != "one":
            return
        role = self._roles(may=True)[0]
        for patient in (MARKER, "4711", f"{served.patient}a"):
            answer = served.get(role, BROWSER, path=self.page.path.replace("{patient}", patient))
            assert answer.status_code == 404 and MARKER not in answer.text
        assert served.get(role, path=self.page.path.replace("{patient}", NOBODY)).status_code in (200, 404)
