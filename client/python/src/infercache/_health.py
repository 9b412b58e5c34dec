"""Why nothing hits, in the log: an engine sees misses alone."""

from __future__ import annotations

import logging
import math
import time

from ._client import Client
from ._errors import DaemonError

_log = logging.getLogger("infercache")
# A cause that comes and goes is told once in this time.
_REPEAT_SECONDS = 60.0
# An engine that starts waits no longer for a daemon that hangs.
_PING_SECONDS = 1.0


class Health:
    """Warns when an adapter's client begins to fail, and when it fails for another reason. Thread-safe."""

    def __init__(self, client: Client, adapter: str) -> None:
        self._client = client
        self._adapter = adapter
        self._code = ""
        self._told: dict[str, float] = {}

    def ping(self) -> None:
        """Asks the daemon once, and warns if it does not answer or refuses: it may come, or be mended, later."""
        try:
            self._client.ping(_PING_SECONDS)
        except DaemonError as error:
            self._tell(error.code, error.reason)

    def look(self) -> None:
        """After calls, as often as one likes."""
        failure = self._client.last_failure
        if failure is not None and failure.code != self._code:
            self._tell(failure.code, failure.reason)

    def _tell(self, code: str, reason: str) -> None:
        self._code = code
        now = time.monotonic()
        if now - self._told.get(code, -math.inf) < _REPEAT_SECONDS:
            return
        self._told[code] = now
        _log.warning(
            "infercache.%s: %s: %s; until that is mended, what it concerns is a miss or is not stored",
            self._adapter, code, reason,
        )  # fmt: skip
