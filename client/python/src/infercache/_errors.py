"""What raises. A miss does not, nor a daemon that is dead, slow or refusing."""

from typing import NamedTuple


class Error(RuntimeError):
    """The base of this package's own errors. Mistakes in arguments are ValueError and TypeError."""


class ClosedError(Error):
    """The client is closed."""


class ForkedError(Error):
    """A client or view of a parent process: connect again in the child."""


class _StatusError(Error):
    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class DaemonError(_StatusError):
    """The daemon does not answer, or refuses. Raised by `ping` and `keys` only.

    `code` is a gRPC status code ("UNAVAILABLE", "PERMISSION_DENIED", ...), `reason` says what was wrong.
    """


class DeviceError(_StatusError):
    """There is no such GPU here, or it does not do what it was asked for. Raised where a device is opened, and by
    what is asked of a view alone.

    `code` and `reason` as in DaemonError. UNIMPLEMENTED: no driver, or a client over gRPC; NOT_FOUND: no such GPU;
    FAILED_PRECONDITION: the stream is being captured for a graph.
    """


class Failure(NamedTuple):
    """Why a get was a miss, or a put refused, if that was more than an absent key."""

    code: str
    reason: str
