"""Access: the role decides, tokens with anything unexpected are refused, and no name is read before it is recorded."""

from __future__ import annotations

import base64
import hmac
import os
import pickle
import pwd
import secrets
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from governance.access import (
    PERMISSIONS,
    ROLES,
    DevelopmentIssuer,
    IdentityLookup,
    InvalidToken,
    JwtVerifier,
    MissingPermission,
    Principal,
    local_principal,
    open_issuer,
    open_verifier,
    require,
)
from governance.access.issuer import ISSUER
from governance.audit import AuditEvent
from governance.keyservice.local import LocalKeyService, create_local_service
from governance.vault import Identity, Vault
from governance.vault.erasure_log import ErasureLog
from governance.vault.on_sqlite import SqliteStore
from vitalake import clock
from vitalake.errors import PrivacyError, ServiceUnavailable, SettingsError
from vitalake.keys import Key, KeyRing, load_keys
from vitalake.settings import load_settings

PATIENT = "v1." + "a" * 32
CLINICIAN = Principal("clinician", "clinician", "Clinician")
ENGINEER = Principal("engineer", "engineer", "Engineer")


def _ring(*versions: str) -> KeyRing:
    keys = tuple(Key("serving", version, secrets.token_bytes(32)) for version in versions)
    return KeyRing({"serving": keys}, {"serving": versions[-1]})


RING = _ring("v1")
DEVELOPMENT = DevelopmentIssuer(RING)
VERIFIER = JwtVerifier(DEVELOPMENT.jwks(), issuer=ISSUER, audience="vitalake")
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _rsa_jwk(key: rsa.RSAPrivateKey = RSA) -> dict[str, Any]:
    return {**jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "r"}


def _claims(**changes: Any) -> dict[str, Any]:
    now = clock.now_us() // 1_000_000
    claims = {"iss": "idp", "aud": "vitalake", "sub": "s-17", "role": "officer", "iat": now, "exp": now + 60}
    return {name: value for name, value in {**claims, **changes}.items() if value is not None}


def _signed(claims: dict[str, Any], *, kid: str = "r", algorithm: str = "RS256") -> str:
    return jwt.encode(claims, RSA, algorithm=algorithm, headers={"kid": kid})


def _verifier() -> JwtVerifier:
    return JwtVerifier({"keys": [_rsa_jwk()]}, issuer="idp", audience="vitalake")


# -- roles


def test_no_role_has_every_permission_and_unlisted_ones_are_refused_by_name() -> None:
    everything = frozenset().union(*PERMISSIONS.values())
    assert set(PERMISSIONS) == set(ROLES)
    assert all(held < everything for held in PERMISSIONS.values())
    for role, held in PERMISSIONS.items():
        principal = Principal("x", role, "X")
        for permission in everything:
            if permission in held:
                require(principal, permission)
                continue
            with pytest.raises(MissingPermission) as caught:
                require(principal, permission)
            assert caught.value.permission == permission
            assert caught.value.exit_code == 12
            assert pickle.loads(pickle.dumps(caught.value)).permission == permission  # noqa: S301


def test_who_treats_patients_does_not_read_the_audit_and_who_reads_it_sees_no_names() -> None:
    assert "audit:read" not in PERMISSIONS["clinician"]
    assert not {"identity:read", "risk:read"} & (PERMISSIONS["officer"] | PERMISSIONS["engineer"])


def test_the_user_id_says_who_somebody_is_whatever_the_environment_calls_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "nurse7")
    account = pwd.getpwuid(os.getuid()).pw_name
    assert local_principal() == Principal(f"local:{account}", "engineer", f"{account} (this machine)")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # as in a container
    assert local_principal("officer").subject == f"local:uid-{os.getuid()}"


# -- tokens


def test_development_issuer_has_a_user_of_every_role_whose_tokens_hold() -> None:
    assert list(DEVELOPMENT.users) == list(ROLES)
    for user, principal in DEVELOPMENT.users.items():
        assert VERIFIER.verify(DEVELOPMENT.sign_in(user)) == principal
    with pytest.raises(PrivacyError, match=r"The users are: engineer, officer, clinician, privacy-officer\.") as caught:
        DEVELOPMENT.sign_in("admin-maria")
    assert "maria" not in str(caught.value)


def test_tokens_of_an_earlier_key_version_hold_and_those_of_another_key_do_not() -> None:
    old, new = Key("serving", "v1", bytes(32)), Key("serving", "v2", bytes(range(32)))
    before = DevelopmentIssuer(KeyRing({"serving": (old,)}, {"serving": "v1"}))
    after = DevelopmentIssuer(KeyRing({"serving": (old, new)}, {"serving": "v2"}))
    verifier = JwtVerifier(after.jwks(), issuer=ISSUER, audience="vitalake")
    assert verifier.verify(before.sign_in("officer")).role == "officer"
    assert verifier.verify(after.sign_in("officer")).role == "officer"
    with pytest.raises(InvalidToken):
        verifier.verify(DevelopmentIssuer(_ring("v1")).sign_in("officer"))


def test_settings_decide_audience_and_length_of_a_session(home: Path) -> None:
    settings, keys = load_settings(home), load_keys(home / "keys.yaml")
    token = open_issuer(settings, keys).sign_in("clinician")
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == settings.serving.session_minutes * 60
    assert open_verifier(settings, keys).verify(token).role == "clinician"


def test_an_rs256_issuer_is_accepted_and_a_name_is_optional() -> None:
    assert _verifier().verify(_signed(_claims())) == Principal("s-17", "officer", "officer")
    assert _verifier().verify(_signed(_claims(name="Dr. Grey"))).name == "Dr. Grey"


@pytest.mark.parametrize(
    "changes",
    [
        *({name: None} for name in ("exp", "iat", "iss", "aud", "sub", "role")),
        {"exp": 1},
        {"iat": 32503680000},
        {"exp": 253402300799},  # the last second of the year 9999
        {"exp": 253402300799, "iat": 1},
        {"nbf": 32503680000},
        {"iss": "other"},
        {"aud": "other"},
        {"role": "root"},
        {"role": ["officer"]},
        {"role": "officer "},
        {"sub": ""},
        {"sub": 7},
        {"sub": "a\nb"},
        {"sub": "x" * 200},
        {"name": {"a": 1}},
    ],
)
def test_claims_that_are_missing_or_other_than_expected_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidToken):
        _verifier().verify(_signed(_claims(**changes)))


def _forgeries() -> list[str]:
    good = _signed(_claims())
    head, body, signature = good.split(".")

    def part(document: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(msgspec.json.encode(document)).rstrip(b"=").decode()

    unsigned = f"{part({'alg': 'none', 'kid': 'r'})}.{body}."
    confused = f"{part({'alg': 'HS256', 'kid': 'r'})}.{body}"
    public = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    mac = base64.urlsafe_b64encode(hmac.digest(public, confused.encode(), "sha256")).rstrip(b"=").decode()
    changed = part(_claims(role="clinician"))
    return [
        "",
        "a.b.c",
        unsigned,
        f"{confused}.{mac}",
        f"{head}.{changed}.{signature}",
        f"{head}.{body}.{signature[:-6]}AAAAAA",
        _signed(_claims(), kid="other"),
        jwt.encode(_claims(), RSA, algorithm="RS256"),
        _signed(_claims(), algorithm="RS512"),
        _signed(_claims(sub="x" * 9000)),
        good + "é",
    ]


@pytest.mark.parametrize("number", range(11))
def test_forged_tokens_are_refused_and_nothing_of_them_is_said(number: int) -> None:
    token = _forgeries()[number]
    with pytest.raises(InvalidToken) as caught:
        _verifier().verify(token)
    assert str(caught.value) == "Token is not accepted: access token. Sign in again."
    assert caught.value.__cause__ is None


def _okp(key: ed448.Ed448PrivateKey) -> dict[str, Any]:
    return {**jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "o"}


def test_key_sets_of_other_kinds_are_refused_at_start() -> None:
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505  the point
    private = ed25519.Ed25519PrivateKey.generate()
    raw = private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    with_private = {**DEVELOPMENT.jwks()["keys"][0], "d": base64.urlsafe_b64encode(raw).rstrip(b"=").decode()}
    elliptic = jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True)
    unfit: list[Any] = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "h"},
        {**elliptic, "kid": "e"},
        _okp(ed448.Ed448PrivateKey.generate()),
        _rsa_jwk(short),
        with_private,
        {name: value for name, value in _rsa_jwk().items() if name != "kid"},
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "!"},
        "text",
    ]
    for key in unfit:
        with pytest.raises(SettingsError):
            JwtVerifier({"keys": [key]}, issuer="idp", audience="vitalake")
    with pytest.raises(SettingsError):
        JwtVerifier({}, issuer="idp", audience="vitalake")


# -- names


class _Recorder:
    def __init__(self, *, full: bool = False) -> None:
        self.events: list[AuditEvent] = []
        self.full = full

    def record(self, event: AuditEvent) -> None:
        if self.full:
            raise ServiceUnavailable("Audit cannot be written")
        self.events.append(event)


def _vault(folder: Path) -> Vault:
    create_local_service(folder / "vault-keys.yaml")
    vault = Vault(
        SqliteStore(folder / "vault.db"),
        Key("vault", "v1", bytes(range(32))),
        LocalKeyService(folder / "vault-keys.yaml"),
        ErasureLog(folder / "erasures.jsonl", bytes(32)),
    )
    vault.put([(PATIENT, 1, Identity("7", name="Doe, Jo"))])
    return vault


def test_a_clinician_reads_a_name_and_that_is_recorded_also_when_nobody_is_known(tmp_path: Path) -> None:
    audit = _Recorder()
    lookup = IdentityLookup(_vault(tmp_path), audit)
    found = lookup.identity(CLINICIAN, PATIENT)
    assert found is not None
    assert found.name == "Doe, Jo"
    assert lookup.identity(CLINICIAN, "v1." + "b" * 32) is None
    assert [(event.action, event.patients[0][:4]) for event in audit.events] == [
        ("identity.read", "v1.a"),
        ("identity.read", "v1.b"),
    ]


def test_a_name_that_was_recorded_before_is_read_without_another_record(tmp_path: Path) -> None:
    audit = _Recorder()
    lookup = IdentityLookup(_vault(tmp_path), audit)
    assert lookup.name(PATIENT) == "Doe, Jo"
    assert lookup.name("v1." + "b" * 32) == ""
    assert audit.events == []


def test_without_permission_no_name_is_read_and_the_attempt_is_recorded(tmp_path: Path) -> None:
    audit = _Recorder()
    with pytest.raises(MissingPermission):
        IdentityLookup(_vault(tmp_path), audit).identity(ENGINEER, PATIENT)
    assert audit.events == [AuditEvent("denied", "engineer", "engineer", (PATIENT,), {"permission": "identity:read"})]


def test_when_the_audit_cannot_be_written_the_vault_is_not_read(tmp_path: Path) -> None:
    vault = _vault(tmp_path)
    vault.close()  # reading it would raise something else
    with pytest.raises(ServiceUnavailable, match="Audit cannot be written"):
        IdentityLookup(vault, _Recorder(full=True)).identity(CLINICIAN, PATIENT)
