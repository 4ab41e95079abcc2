"""The development issuer of tokens, with one user for each role. A hospital's identity provider replaces it."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from governance.access.principal import ROLES, Principal
from governance.access.tokens import JwtVerifier
from vitalake import clock
from vitalake.errors import PrivacyError
from vitalake.keys import Key, KeyRing
from vitalake.settings import Settings

ISSUER = "vitalake-development"
"""The ``iss`` of its tokens. A verifier for a real issuer refuses them, whatever key has signed them."""


class DevelopmentIssuer:
    """Signs tokens for exactly one user of each role, without a password: for one machine, never for a ward.

    Its Ed25519 key is derived from the key ``serving``, so that no other secret has to be stored.
    """

    def __init__(self, keys: KeyRing, *, audience: str = "vitalake", minutes: int = 480) -> None:
        self._keys, self._audience, self._minutes = keys, audience, minutes
        self.users = {role: Principal(role, role, f"{role.capitalize()} (development)") for role in ROLES}

    def sign_in(self, user: str) -> str:
        """Return a token for one of the users.

        Raises:
            PrivacyError: there is no such user; the name is not echoed.
        """
        import jwt

        principal = self.users.get(user)  # type: ignore[call-overload]
        if principal is None:
            raise PrivacyError(
                "No such user", where="development issuer", remedy=f"The users are: {', '.join(self.users)}."
            )
        key, now = self._keys.current("serving"), clock.now_us() // 1_000_000
        claims = {
            "iss": ISSUER,
            "aud": self._audience,
            "sub": principal.subject,
            "role": principal.role,
            "name": principal.name,
            "iat": now,
            "nbf": now,
            "exp": now + self._minutes * 60,
        }
        return str(jwt.encode(claims, _signing_key(key), algorithm="EdDSA", headers={"kid": _jwk(key)["kid"]}))

    def jwks(self) -> dict[str, Any]:
        """Return its public keys as a JSON web key set, one key for each version of ``serving``."""
        return {"keys": [_jwk(key) for key in self._keys.versions("serving")]}


def open_issuer(settings: Settings, keys: KeyRing) -> DevelopmentIssuer:
    """Return the issuer that the settings describe."""
    serving = settings.serving
    return DevelopmentIssuer(keys, audience=serving.audience, minutes=serving.session_minutes)


def open_verifier(settings: Settings, keys: KeyRing) -> JwtVerifier:
    """Return a verifier for tokens of the home's own issuer."""
    return JwtVerifier(open_issuer(settings, keys).jwks(), issuer=ISSUER, audience=settings.serving.audience)


def _signing_key(key: Key) -> Ed25519PrivateKey:
    seed = HKDF(SHA256(), length=32, salt=None, info=b"vitalake development issuer, Ed25519").derive(key.secret)
    return Ed25519PrivateKey.from_private_bytes(seed)


def _jwk(key: Key) -> dict[str, Any]:
    public = _signing_key(key).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return {
        "kty": "OKP",
        "crv": "Ed25519",
        "use": "sig",
        "alg": "EdDSA",
        "kid": hashlib.sha256(public).hexdigest()[:16],
        "x": base64.urlsafe_b64encode(public).rstrip(b"=").decode(),
    }
