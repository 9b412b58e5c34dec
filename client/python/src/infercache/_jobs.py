"""Batches that threads carry out, for engines that must not be kept waiting by a copy."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

_Result = TypeVar("_Result")


class Jobs(Generic[_Result]):
    """Runs jobs in threads of its own, in which the client copies without the GIL. Thread-safe."""

    def __init__(self, threads: int, failed: Callable[[Exception], _Result]) -> None:
        """`failed(error)` is the result of a job that raised, or was given up before it began."""
        self._failed = failed
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="infercache")
        self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._changed = threading.Condition()
        self._running = 0
        self._waiting: dict[int, Future[None]] = {}
        self._done: list[tuple[int, _Result]] = []

    @property
    def event_fd(self) -> int:
        """Readable while jobs are done that `drain` has not told of."""
        return self._event_fd

    def submit(self, job_id: int, work: Callable[[], _Result]) -> None:
        """Returns at once. RuntimeError: closed."""
        with self._changed:
            self._waiting[job_id] = self._executor.submit(self._run, job_id, work)
            self._running += 1

    def _run(self, job_id: int, work: Callable[[], _Result]) -> None:
        with self._changed:
            del self._waiting[job_id]
        try:
            result = work()
        except Exception as error:
            result = self._failed(error)
        with self._changed:
            self._finish(job_id, result)

    def _finish(self, job_id: int, result: _Result) -> None:
        self._done.append((job_id, result))
        self._running -= 1
        os.eventfd_write(self._event_fd, 1)
        self._changed.notify_all()

    def drain(self) -> list[tuple[int, _Result]]:
        """The jobs that are done since the last call, also when closed. Does not wait."""
        with self._changed:
            if self._done and self._event_fd >= 0:
                os.eventfd_read(self._event_fd)
            done, self._done = self._done, []
        return done

    def give_up(self) -> None:
        """What has not begun fails, as `drain` tells; waits for what has."""
        with self._changed:
            for job_id, future in list(self._waiting.items()):
                if future.cancel():
                    del self._waiting[job_id]
                    self._finish(job_id, self._failed(RuntimeError("given up before it began")))
            self._changed.wait_for(lambda: self._running == 0)

    def close(self) -> None:
        """Gives up what has not begun, waits for what has. Idempotent."""
        self.give_up()
        self._executor.shutdown(wait=True)
        with self._changed:
            if self._event_fd >= 0:
                os.close(self._event_fd)
                self._event_fd = -1
