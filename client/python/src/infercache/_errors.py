"""What raises. A miss does not, nor a daemon that is dead, slow or refusing."""

from typing import NamedTuple


class Error(RuntimeError):
    """The base of this package's own errors. Mistakes in arguments are ValueError and TypeError."""


class ClosedError(Error):
    """The client is closed."""


class ForkedError(Error):
    """A client or view of a parent process: connect again in the child."""


class DaemonError(Error):
    """The daemon does not answer, or refuses. Raised by `ping` and `keys` only.

    `code` is a gRPC status code ("UNAVAILABLE", "PERMISSION_DENIED", ...), `reason` says what was wrong.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class Failure(NamedTuple):
    """Why a get was a miss, or a put refused, if that was more than an absent key."""

    code: str
    reason: str
