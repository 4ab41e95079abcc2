"""The addresses that a server may listen on: no other machine can sign in without a password, by any name."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.serving.addresses import is_loopback, names_of, needs_secure_cookie, require_loopback
from models.serving.app import make_app
from models.serving.server import listen
from vitalake.cli.app import main
from vitalake.errors import PrivacyError, SettingsError
from vitalake.settings import load_settings

OPEN = ["0.0.0.0", "::", "0", "::ffff:0.0.0.0", "192.0.2.7", "2001:db8::1", "::ffff:192.0.2.7", "fe80::1"]  # noqa: S104
OWN = ["127.0.0.1", "localhost", "127.3.2.1", "::1", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "127.1"]


@pytest.mark.parametrize("host", OPEN)
def test_an_address_that_other_machines_reach_is_refused_by_every_way(
    host: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(PrivacyError, match="without a password"):
        listen(host, 0)
    assert main(["serve", "--home", str(home), "--port", "0", "--host", host]) == 12
    monkeypatch.setenv("VITALAKE_SERVING__HOST", host)
    assert main(["serve", "--home", str(home), "--port", "0"]) == 12
    assert "serving.host" in capsys.readouterr().err
    monkeypatch.delenv("VITALAKE_SERVING__HOST")
    (home / "vitalake.yaml").write_text(f"serving: {{host: '{host}'}}")
    with pytest.raises(PrivacyError):
        make_app(load_settings(home))
    assert not (home / "audit").exists()  # refused before anything is opened


@pytest.mark.parametrize("host", OWN)
def test_an_address_of_this_machine_is_served(host: str) -> None:
    try:
        with listen(host, 0) as found:
            assert is_loopback(found.getsockname()[0])
    except SettingsError as error:  # a machine without IPv6
        assert ":" in host, error


@pytest.mark.parametrize("host", ["", "a" * 300])
def test_a_host_that_is_none_is_told_so(host: str) -> None:
    with pytest.raises(SettingsError, match="Host has no address"):
        require_loopback(host, 0)


def test_a_server_answers_to_its_own_names_only() -> None:
    assert "127.3.2.1" in names_of("127.3.2.1")
    assert "[::1]" in names_of("::1")
    assert "ward.example.org" not in names_of("127.0.0.1")


@pytest.mark.parametrize(
    ("scheme", "host", "address", "secure"),
    [
        ("http", "127.0.0.1", "127.0.0.1", False),
        ("http", "localhost", "127.0.0.1", False),
        ("http", "::1", "::1", False),
        ("https", "localhost", "127.0.0.1", True),
        ("http", "ward.example.org", "127.0.0.1", True),
        ("http", "192.0.2.7", "192.0.2.7", True),
        ("http", "localhost", "0.0.0.0", True),  # noqa: S104
        ("http", "localhost", "a" * 300, True),
    ],
)
def test_a_sessions_cookie_leaves_this_machine_over_tls_only(
    scheme: str, host: str, address: str, secure: bool
) -> None:
    assert needs_secure_cookie(scheme, host, address) is secure
