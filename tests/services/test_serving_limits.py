"""What one who asks too much, too slowly or without end takes from the others: nothing, and is told so."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import msgspec
import pytest

from governance.audit import Report
from governance.home import init_home
from governance.keyservice import KeyRevoked
from governance.query.slots import slot
from governance.samples import copy_samples
from models.serving import auditing, connections
from models.serving import authorisation as gate
from models.serving import security as shield
from models.serving.problems import PROBLEM
from models.serving.security import MOST_BYTES
from tests.services.serving import STABLE, Served, WardUnderTest, serving
from tests.services.waiting import until
from vitalake.errors import ServiceUnavailable

HTML = {"accept": "text/html"}


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> WardUnderTest:
    home = tmp_path_factory.mktemp("ward") / "home"
    init_home(home, copy_samples)
    found = WardUnderTest(home)
    found.measure(found.admit("p-0", bed="Bed 1", name="Planted, Name", mrn="M-0"), STABLE)
    return found


@pytest.fixture(scope="module")
def served(ward: WardUnderTest) -> Iterator[Served]:
    with serving(ward.settings) as found:
        yield found


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.address, timeout=20) as found:
        yield found


def _connect(address: str) -> socket.socket:
    host, _, port = address.removeprefix("http://").rpartition(":")
    found = socket.create_connection((host, int(port)), timeout=30)
    return found


def _end(connection: socket.socket) -> bytes:
    """Return all that comes until the server ends the connection."""
    found = b""
    try:
        while data := connection.recv(65_536):
            found += data
    except ConnectionResetError:
        pass
    return found


def _head(address: str, method: str, path: str, *more: str) -> bytes:
    host = address.removeprefix("http://")
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"host: {host}", *more, "", ""]).encode()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that a test can wait for."""
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.6)
    monkeypatch.setattr(shield, "BODY_SECONDS", 0.3)
    monkeypatch.setattr(connections, "READ_SECONDS", 0.3)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("begun", ["", "GET / HT", "GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: "])
def test_a_request_that_never_comes_whole_is_answered_and_ended(served: Served, begun: str) -> None:
    with _connect(served.address) as connection:
        connection.sendall(begun.encode())
        assert b"HTTP/1.1 408 Request timeout" in _end(connection)


@pytest.mark.usefixtures("hasty")
def test_a_head_that_comes_byte_by_byte_is_ended(served: Served) -> None:
    with _connect(served.address) as connection:
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() < began + 30:
                connection.sendall(b"G")
                time.sleep(0.01)


@pytest.mark.usefixtures("hasty")
def test_a_body_that_never_ends_is_answered_and_ended(served: Served) -> None:
    kind = "content-type: application/x-www-form-urlencoded"
    with _connect(served.address) as connection:
        connection.sendall(_head(served.address, "POST", "/sign-in", kind, "content-length: 16") + b"user=")
        answer = _end(connection)
    assert b"408" in answer.split(b"\r\n")[0]
    assert b"must arrive within" in answer
    with _connect(served.address) as connection:
        connection.sendall(
            _head(served.address, "POST", "/sign-in", kind, "transfer-encoding: chunked") + b"5\r\nuser="
        )
        assert b"408" in _end(connection).split(b"\r\n")[0]


@pytest.mark.usefixtures("hasty")
def test_a_body_that_nobody_reads_holds_no_connection(served: Served) -> None:
    """The answer is there at once; what drips in behind it kept the connection open for ever."""
    with _connect(served.address) as connection:
        connection.sendall(_head(served.address, "GET", "/healthz", "content-length: 16000") + b"x")
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() < began + 30:
                connection.sendall(b"x")
                time.sleep(0.01)


@pytest.mark.usefixtures("hasty")
def test_answers_that_nobody_reads_are_not_kept(served: Served) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        host, _, port = served.address.removeprefix("http://").rpartition(":")
        connection.connect((host, int(port)))
        asked = _head(served.address, "GET", "/static/vitalake.css")
        connection.setblocking(False)
        began = 0

        def was_reset() -> bool:
            nonlocal began
            try:
                while True:  # one request behind the other, and no answer is read
                    began += connection.send(asked[began % len(asked) :])
            except BlockingIOError:
                return False
            except OSError:
                return True

        until(was_reset)


def test_too_many_connections_are_told(ward: WardUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "most_connections", lambda: 3)
    with serving(ward.settings) as served:
        held = [_connect(served.address) for _ in range(3)]
        with _connect(served.address) as one_more:
            answer = _end(one_more)
        assert b"503" in answer.split(b"\r\n")[0]
        assert b"retry-after: 5" in answer
        for one in held:
            one.close()
        until(lambda: httpx.get(f"{served.address}/healthz").status_code == 200)


def test_a_thousand_sign_ins_end_nobodys_session(
    ward: WardUnderTest, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MOST_OF_A_USER", 20)
    officer, clinician = httpx.Client(base_url=client.base_url), httpx.Client(base_url=client.base_url)
    officer.post("/sign-in", data={"user": "officer"})
    clinician.post("/sign-in", data={"user": "clinician"})
    assert clinician.get("/board").status_code == 200
    for _ in range(40):
        with httpx.Client(base_url=client.base_url) as other:
            assert other.post("/sign-in", data={"user": "clinician"}).status_code == 303, "nor do they keep anybody out"
            assert other.get("/board").status_code == 200
        assert clinician.get("/board").status_code == 200
    answers = (httpx.post(f"{client.base_url}/sign-in", data={"user": "clinician"}) for _ in range(1_000))
    refused = next(answer for answer in answers if answer.status_code != 303)  # sooner or later: the allowance fills
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 0
    assert refused.headers["content-type"] == PROBLEM
    assert officer.get("/ledger").status_code == clinician.get("/board").status_code == 200
    officer.close()
    clinician.close()


def test_one_sign_in_too_many_ends_the_users_session_that_nobody_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand sign-ins in a user's name kept the user out for eight hours."""
    monkeypatch.setattr(gate, "MOST_OF_A_USER", 3)
    times = [0.0]
    sessions = gate.Sessions(seconds=lambda: times[-1])
    other, first, second, unshown = (sessions.begin(name, name[0]) for name in ("o", "u1", "u2", "u3"))
    for now, shown in ((1.0, second), (2.0, first), (3.0, other)):
        times.append(now)
        assert sessions.token(shown)
    times.append(4.0)
    third = sessions.begin("u4", "u")
    assert sessions.token(unshown) is None
    times.append(5.0)
    assert sessions.token(third) == "u4"
    assert sessions.token(sessions.begin("u5", "u")) == "u5"
    assert [sessions.token(one) for one in (other, first, second, third)] == ["o", "u1", None, "u4"]


def test_who_asks_too_often_waits_and_others_do_not(ward: WardUnderTest) -> None:
    settings = ward.settings
    slow = settings.serving.model_copy(update={"requests_per_second": 2})
    with serving(settings.model_copy(update={"serving": slow})) as served:
        with httpx.Client(base_url=served.address) as client:
            address, bearer = f"/v1/patients/{ward.token('p-0')}/risk", ward.bearer()
            answers = [client.get(address, headers=bearer) for _ in range(12)]
            refused = [answer for answer in answers if answer.status_code == 429]
            assert refused
            assert refused[0].headers["retry-after"] == "1"
            assert "requests_per_second" in msgspec.json.decode(refused[0].content)["detail"]
            assert client.get("/ledger", headers=ward.bearer("engineer")).status_code == 200


def test_one_user_does_not_take_all_boards(ward: WardUnderTest) -> None:
    settings = ward.settings
    few = settings.serving.model_copy(update={"most_boards": 4})
    with (
        serving(settings.model_copy(update={"serving": few})) as served,
        httpx.Client(base_url=served.address) as client,
    ):
        with (
            client.stream("GET", "/board/events", headers=ward.bearer()) as first,
            client.stream("GET", "/board/events", headers=ward.bearer()) as second,
        ):
            assert first.status_code == second.status_code == 200
            third = client.get("/board/events", headers=ward.bearer())
            assert (third.status_code, third.headers["retry-after"]) == (429, "5")
        until(lambda: served.app.state.server.board_feed.boards == 0)


def test_a_body_of_unknown_length_ends_where_it_is_too_long(client: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(MOST_BYTES // 1000 + 2):
            yield b"x" * 1000

    answer = client.post("/v1/score", content=chunks(), headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert answer.headers["content-type"] == PROBLEM


def test_the_ledger_does_not_wait_for_the_audit(
    ward: WardUnderTest, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``GET /audit`` verified all chains each time, in the thread that reads the ledger."""
    import threading

    let, calls = threading.Event(), []

    def slowly(*_: object, **__: object) -> Report:
        calls.append(1)
        assert let.wait(30)
        return Report()

    monkeypatch.setattr(auditing, "verify_chain", slowly)
    monkeypatch.setattr(auditing, "FIRST_SECONDS", 0.2)
    with serving(ward.settings) as served, httpx.Client(base_url=served.address, timeout=20) as own:
        officer = ward.bearer("officer") | HTML
        with ThreadPoolExecutor(4) as pool:
            pages = [pool.submit(own.get, "/audit", headers=officer) for _ in range(4)]
            assert own.get("/ledger", headers=ward.bearer("engineer")).status_code == 200
            texts = [page.result().text for page in pages]
        assert all("is being checked" in text for text in texts)
        let.set()
        until(lambda: "chains are intact" in own.get("/audit", headers=officer).text)
        own.get("/audit", headers=officer)
        assert len(calls) == 1, "one check serves all who look"


def test_a_name_that_cannot_be_had_takes_only_the_name(
    ward: WardUnderTest, served: Served, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object) -> None:
        raise KeyRevoked("Key is revoked", where="key service", remedy="Restore it.")

    patient = ward.token("p-0")
    monkeypatch.setattr(served.app.state.server._vault, "look_up", locked)
    page = client.get(f"/patients/{patient}", headers=ward.bearer() | HTML)
    assert page.status_code == 200
    assert "The name cannot be shown: Key is revoked" in page.text
    assert "NEWS2" in page.text


def test_too_many_queries_wait_and_are_refused_in_the_end(ward: WardUnderTest, tmp_path: Path) -> None:
    """Eight at once took 3.5 GB."""
    workers = ward.settings.queries.workers
    command = [sys.executable, "-m", "vitalake", "sql", "SELECT 1 AS one", "--home", str(ward.home)]
    environment = {"VITALAKE_QUERIES__WAIT_SECONDS": "0.3", "PATH": ""}
    with ExitStack() as held:
        for _ in range(workers):
            held.enter_context(slot(ward.home, workers=workers, seconds=0, waiting=pytest.fail))
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == ServiceUnavailable.exit_code, done.stderr
    assert "queries run at once" in done.stderr
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
