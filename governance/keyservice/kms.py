"""AWS KMS as key service: the wrapping key never leaves KMS, and KMS decides who may use it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from governance.keyservice.service import KeyRevoked, KeyVersion, Wrapped
from vitalake.errors import PrivacyError, ServiceUnavailable, SettingsError

_REFUSED = frozenset(
    {
        "DisabledException", "KMSInvalidStateException", "NotFoundException", "AccessDeniedException",
        "AccessDenied", "NotAuthorizedException", "UnrecognizedClientException", "InvalidClientTokenId",
        "ExpiredTokenException", "ExpiredToken", "InvalidSignatureException", "SignatureDoesNotMatch",
    }
)  # fmt: skip
"""Error codes of KMS for a key that is disabled, deleted or waiting for deletion, or that we may not use."""

_CHANGED = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})

_CONFIG = Config(
    connect_timeout=2,
    read_timeout=2,
    retries={"total_max_attempts": 2, "mode": "standard"},
    ignore_configured_endpoint_urls=True,  # an endpoint from the environment would let the caller redirect KMS
)
"""Time-outs in seconds: a lane stands still while it waits, and no key is in use."""


class KmsKeyService:
    """Wraps with one KMS key, named by id, ARN or alias; KMS itself makes new versions of the key."""

    kind = "aws-kms"

    def __init__(self, key: str, *, region: str | None, endpoint: str | None, options: dict[str, str]) -> None:
        """Prepare; KMS is not asked yet.

        Args:
            key: id, ARN or alias.
            region: AWS region; None: that of the environment.
            endpoint: the address of KMS; None: that of AWS.
            options: further arguments of a boto3 client, such as credentials; without these, boto3 searches for some.

        Raises:
            SettingsError: an option or the region is not valid.
        """
        self._key = key
        try:
            self._client: Any = boto3.client(
                "kms", region_name=region, endpoint_url=endpoint, config=_CONFIG, **options
            )
        except (BotoCoreError, ValueError, TypeError) as error:
            raise SettingsError(
                f"Key service's settings are not valid ({type(error).__name__})",
                where="settings.key_service",
                remedy="Set region, endpoint and options as boto3 takes them.",
            ) from None

    def wrap(self, plain: bytes, *, context: bytes) -> Wrapped:
        """Return a key wrapped; see KeyService."""
        with self._asked(self._key):
            answer = self._client.encrypt(KeyId=self._key, Plaintext=plain, EncryptionContext=_context(context))
            return Wrapped(answer["KeyId"], answer["CiphertextBlob"])

    def unwrap(self, wrapped: Wrapped, *, context: bytes) -> bytes:
        """Return the key that was wrapped; see KeyService."""
        with self._asked(wrapped.key_id):
            answer = self._client.decrypt(
                KeyId=wrapped.key_id, CiphertextBlob=wrapped.sealed, EncryptionContext=_context(context)
            )
            plain: bytes = answer["Plaintext"]
            return plain

    def status(self) -> list[KeyVersion]:
        """Return the key as KMS describes it; KMS does not list the versions of a key."""
        found = self._describe(self._key)
        return [
            KeyVersion(
                found["Arn"],
                "enabled" if found["KeyState"] == "Enabled" else "revoked",
                current=True,
                made_at=found["CreationDate"],
            )
        ]

    def rotate(self) -> str:
        """Return the key that wraps from now on: the one that an alias names by now."""
        arn: str = self._describe(self._key)["Arn"]
        return arn

    def destroy(self, key_id: str) -> bool:
        """Do nothing and return False: KMS keys are deleted in KMS, after a waiting period."""
        return False

    def revoke(self, key_ids: Iterable[str] = ()) -> None:
        """Disable the key, and the other keys that still wrap something."""
        for key in self._ids(key_ids):
            with self._asked(key):
                self._client.disable_key(KeyId=key)

    def restore(self, key_ids: Iterable[str] = ()) -> None:
        """Enable them."""
        for key in self._ids(key_ids):
            with self._asked(key):
                self._client.enable_key(KeyId=key)

    def _ids(self, key_ids: Iterable[str]) -> list[str]:
        return sorted({self._describe(key)["KeyId"] for key in (self._key, *key_ids)})

    def _describe(self, key: str) -> Any:
        with self._asked(key):
            return self._client.describe_key(KeyId=key)["KeyMetadata"]

    @contextmanager
    def _asked(self, key: str) -> Iterator[None]:
        where = f"AWS KMS, key {key}"
        try:
            yield
        except ClientError as error:
            code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"].get("HTTPStatusCode")
            if code in _CHANGED:
                raise PrivacyError(
                    f"Wrapped key cannot be opened ({code})",
                    where=where,
                    remedy="It was changed, or belongs to another vault: restore the vault from its back-up.",
                ) from None
            if code in _REFUSED or status in (401, 403):
                raise KeyRevoked(
                    f"Wrapping key is revoked ({code})",
                    where=where,
                    remedy="Enable the key in KMS ('vitalake keys revoke --undo'), or give back the right to use it.",
                ) from None
            raise _no_answer(code, where) from None
        except BotoCoreError as error:
            raise _no_answer(type(error).__name__, where) from None


def _no_answer(why: str, where: str) -> ServiceUnavailable:
    return ServiceUnavailable(
        f"Key service does not answer ({why})", where=where, remedy="Check network, region and credentials."
    )


def _context(context: bytes) -> dict[str, str]:
    return {"vitalake": context.decode("ascii")}
