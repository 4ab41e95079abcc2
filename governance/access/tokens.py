"""Verifies access tokens: signed statements of who somebody is. Whatever is not expected in one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from governance.access.principal import ROLES, Principal
from vitalake.errors import PrivacyError, SettingsError

REQUIRED_CLAIMS = ("exp", "iat", "iss", "aud", "sub")
LEEWAY_SECONDS = 10
"""How far the issuer's clock and this machine's may differ."""

MOST_SECONDS = 86_400
"""The longest time from issue to expiry, whatever the issuer grants: a stolen token can be used for a day at most."""

MOST_BYTES = 8192
"""The longest token; browsers and proxies do not accept longer headers either."""

MOST_NAME = 120
"""The most characters of a subject, a role or a name."""

RSA_BITS = 2048
"""The shortest RSA key that is accepted."""


class InvalidToken(PrivacyError):
    """The token is not accepted. The error says neither why nor what the token contains: its text is a credential."""


class TokenVerifier(Protocol):
    """Checks tokens, and returns whom they are for."""

    def verify(self, token: str) -> Principal:
        """Return the principal that a token names.

        Raises:
            InvalidToken: the token is not accepted.
        """
        ...


class JwtVerifier:
    """Accepts JSON web tokens (RFC 7519) signed with EdDSA (Ed25519) or RS256 by one of an issuer's keys.

    The key decides the algorithm, never the token's header. A key of any other kind is refused at start.
    """

    def __init__(self, jwks: Mapping[str, Any], *, issuer: str, audience: str) -> None:
        """Read the issuer's public keys.

        Args:
            jwks: a JSON web key set (RFC 7517); every key with a ``kid``.
            issuer: the only ``iss`` that is accepted.
            audience: must be in ``aud``.

        Raises:
            SettingsError: a key is of another kind, too short, or without a ``kid``.
        """
        self._issuer, self._audience = issuer, audience
        self._keys = {kid: (key, algorithm) for kid, key, algorithm in map(_public_key, jwks.get("keys", ()))}
        if not self._keys:
            raise _unfit_key()

    def verify(self, token: str) -> Principal:
        """Return the principal that a token names.

        Raises:
            InvalidToken: not signed by the issuer, not for this audience, expired, valid for longer than a day, or
                without a known role.
        """
        import jwt

        try:
            if len(token) > MOST_BYTES:
                raise ValueError
            key, algorithm = self._keys[str(jwt.get_unverified_header(token)["kid"])]
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_SECONDS,
                options={"require": list(REQUIRED_CLAIMS)},
            )
            if not claims["exp"] - claims["iat"] <= MOST_SECONDS:
                raise ValueError
            return _principal(claims)
        except (jwt.PyJWTError, KeyError, ValueError, TypeError):
            raise InvalidToken("Token is not accepted", where="access token", remedy="Sign in again.") from None


def _principal(claims: Mapping[str, Any]) -> Principal:
    subject, role, name = claims["sub"], claims["role"], claims.get("name", claims["role"])
    for text in (subject, role, name):
        if not isinstance(text, str) or not 0 < len(text) <= MOST_NAME or not text.isprintable():
            raise ValueError
    return Principal(subject, {known: known for known in ROLES}[role], name)


def _unfit_key() -> SettingsError:
    return SettingsError(
        "Key set has no key that can verify tokens, or a key of an unknown kind",
        where="the token issuer's keys",
        remedy=f"Use Ed25519 keys, or RSA keys of {RSA_BITS} bits or more, each with a kid.",
    )


def _public_key(document: Any) -> tuple[str, Any, str]:
    import jwt
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    try:
        kid, kind = document["kid"], {"OKP": "EdDSA", "RSA": "RS256"}[document["kty"]]
        key = jwt.PyJWK(document, algorithm=kind).key
    except (jwt.PyJWTError, KeyError, TypeError, ValueError):
        raise _unfit_key() from None
    # This check also refuses private keys, and Ed448, whose key type is OKP too.
    if isinstance(key, Ed25519PublicKey) or (isinstance(key, RSAPublicKey) and key.key_size >= RSA_BITS):
        return str(kid), key, kind
    raise _unfit_key()
