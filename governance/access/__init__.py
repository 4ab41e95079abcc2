"""Access control: principals, roles, permissions and tokens, and the lookup of the name behind a pseudonym."""

from governance.access.identity import IdentityLookup
from governance.access.issuer import DevelopmentIssuer, open_issuer, open_verifier
from governance.access.principal import (
    PERMISSIONS,
    ROLES,
    MissingPermission,
    Permission,
    Principal,
    Role,
    local_principal,
    local_privacy_officer,
    require,
)
from governance.access.tokens import InvalidToken, JwtVerifier, TokenVerifier

__all__ = [
    "PERMISSIONS",
    "ROLES",
    "DevelopmentIssuer",
    "IdentityLookup",
    "InvalidToken",
    "JwtVerifier",
    "MissingPermission",
    "Permission",
    "Principal",
    "Role",
    "TokenVerifier",
    "local_principal",
    "local_privacy_officer",
    "open_issuer",
    "open_verifier",
    "require",
]
