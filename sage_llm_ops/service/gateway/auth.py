"""Who may come in. Keys are known by their SHA-256 alone, so the configuration is no secret."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping

from sage_llm_ops.config.gateway import ApiKey, GatewayConfig, is_loopback
from sage_llm_ops.service.gateway.errors import HttpError

PREFIX = "slo-"
_CHALLENGE = (("www-authenticate", "Bearer"),)


def new_key() -> tuple[str, str]:
    """A key and its SHA-256."""
    key = PREFIX + secrets.token_urlsafe(32)
    return key, key_hash(key)


def key_hash(key: str) -> str:
    """What the configuration holds of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


class Senders:
    """Whose requests are whose: what was decided about one is told to its own key, and to admins."""

    MOST = 4096
    """Requests that are remembered; more than the ledger holds entries about."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def add(self, request_id: str, key: ApiKey | None) -> None:
        """It was sent with this key."""
        if key is None:
            return
        self._names.pop(request_id, None)
        self._names[request_id] = key.name
        if len(self._names) > self.MOST:
            del self._names[next(iter(self._names))]

    def may_read(self, key: ApiKey | None, request_id: str) -> bool:
        """Without keys everybody may."""
        return key is None or key.role == "admin" or self._names.get(request_id) == key.name


class Keys:
    """The configured keys. Without any, everybody may generate, and this machine may manage."""

    def __init__(self, config: GatewayConfig) -> None:
        self._keys = config.api_keys
        self._loopback = config.loopback

    def who(self, headers: Mapping[str, str]) -> ApiKey | None:
        """The key that was shown; None where none is needed. Else `HttpError` 401."""
        if not self._keys:
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        given = given.strip()
        if scheme.lower() != "bearer" or not given:
            raise HttpError(
                401,
                "an API key is needed: send the header `Authorization: Bearer KEY`",
                code="missing_api_key",
                headers=_CHALLENGE,
            )
        shown = hashlib.sha256(given.encode("latin-1")).hexdigest()
        found = None
        for key in self._keys:  # all of them: how long it takes must not tell which was near
            if hmac.compare_digest(key.sha256, shown):
                found = key
        if found is None:
            raise HttpError(
                401,
                "this API key is not known here; ask for one whose hash is in the configuration",
                code="invalid_api_key",
                headers=_CHALLENGE,
            )
        return found

    def may_manage(self, key: ApiKey | None, headers: Mapping[str, str]) -> None:
        """Nothing, or `HttpError` 403."""
        if key is not None:
            if key.role != "admin":
                raise HttpError(
                    403,
                    f"key {key.name!r} has role {key.role!r}; managing engines needs 'admin'",
                    code="not_admin",
                )
            return
        if not self._loopback:
            raise HttpError(
                403,
                "without api_keys engines are managed only where the server listens on loopback; "
                "configure a key with role 'admin'",
                code="management_needs_key",
            )
        # Without keys a page in this machine's browser could ask too: it says so itself, or by
        # the name under which it reached us.
        host = headers.get("host", "localhost")
        name = host[: host.rfind("]") + 1] if host.startswith("[") else host.partition(":")[0]
        if "origin" in headers or not is_loopback(name):
            raise HttpError(
                403,
                "without api_keys engines are managed from this machine itself and not by web "
                "pages; configure a key with role 'admin'",
                code="management_needs_key",
            )
