"""The clients of the gateway: found by their keys, admitted within their limits."""

from __future__ import annotations

import hmac
import math
from collections.abc import Sequence

from cuecard.domain.errors import Unauthorised
from cuecard.gateway.admission.keys import Key, digest
from cuecard.gateway.admission.local_state import LocalState
from cuecard.gateway.admission.state import Amount, Lease, LimitState


class ApiClient:
    """The holder of a key."""

    def __init__(self, key: Key, state: LimitState) -> None:
        self.key, self._state = key, state

    async def enter(self) -> None:
        """Count a request. Raises RateLimited, BudgetUsed or StateUnavailable, and then counts nothing."""
        await self._state.enter(self.key)

    async def reserve(self, estimate: Amount) -> Lease:
        """Reserve a request's estimated use of its budgets. Raises BudgetUsed, BudgetReserved, StateUnavailable."""
        return await self._state.reserve(self.key, estimate)

    def headers(self) -> dict[str, str]:
        """Rate limits, as OpenAI's response headers."""
        headers: dict[str, str] = {}
        for what, allowance in self._state.allowances(self.key).items():
            headers |= {
                f"x-ratelimit-limit-{what}": str(allowance.most),
                f"x-ratelimit-remaining-{what}": str(max(0, math.floor(allowance.left))),
                f"x-ratelimit-reset-{what}": f"{allowance.full_in_s:.1f}s",
            }
        return headers


class Gate:
    """Finds the client of a key; without any keys, all requests belong to one client."""

    def __init__(self, keys: Sequence[Key], state: LimitState | None = None) -> None:
        """`state`: where limits are counted; None: in this process, with no file."""
        self.state: LimitState = state or LocalState()
        self._clients: list[ApiClient] = []
        self._anonymous = ApiClient(Key.model_construct(name="anybody", sha256=""), self.state)
        self.renew(keys)

    def renew(self, keys: Sequence[Key]) -> None:
        """Replace the keys. Running requests continue, charged to the key that began them; unchanged limits go on."""
        self._clients = [ApiClient(key, self.state) for key in keys]

    @property
    def is_open(self) -> bool:
        """Whether requests need no key."""
        return not self._clients

    def known(self, authorization: str | None, api_key: str | None = None) -> ApiClient:
        """The client of this `Authorization` or `x-api-key` header; counts no request. Raises Unauthorised."""
        if self.is_open:
            return self._anonymous
        scheme, _, bearer = (authorization or "").partition(" ")
        sent = (bearer if scheme.lower() == "bearer" else "", api_key or "")
        given = [digest(secret.strip()) for secret in sent if secret.strip()]
        if not given:
            raise Unauthorised("no API key was given", "send Authorization: Bearer KEY, or x-api-key: KEY")
        known = [  # compared with all of them, so that the time reveals nothing
            client for client in self._clients for each in given if hmac.compare_digest(each, client.key.sha256)
        ]
        if not known:
            raise Unauthorised("this API key is not known", "ask the operator of this gateway for a key")
        client = known[-1]
        end = client.key.expires
        if end is not None and self.state.now() >= end.timestamp():
            message = f"the API key {client.key.name} has expired: it was valid until {end:%Y-%m-%d %H:%M %Z}"
            raise Unauthorised(message, "ask the operator of this gateway for a new one")
        return client
