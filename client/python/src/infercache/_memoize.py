"""memoize: a function whose results are objects of the cache."""

from __future__ import annotations

import functools
import hashlib
import inspect
import struct
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from . import _structure
from ._arrays import describe

if TYPE_CHECKING:
    from ._client import Client, Key, Kind
    from ._core import View

_Function = TypeVar("_Function", bound=Callable[..., Any])


def memoize(
    client: Client,
    *,
    key: Callable[..., Key] | None = None,
    version: str = "",
    kind: Kind = "output",
    ttl: float | None = None,
    copy: bool = True,
) -> Callable[[_Function], _Function]:
    """A decorator: calls with equal arguments are computed once, by whichever process is first.

    The key is the function's module and name, its code (the bytecode of this Python, and defaults) or else `version`, and
    a hash of the arguments: numbers, str, bytes, None, arrays, tensors, and lists, tuples and dicts of these; or what
    `key(*args, **kwargs)` returns. What else the function depends on, such as functions that it calls and globals,
    belongs in `version` or in the client's fingerprint. Results are what `put` takes, str, numbers, None, and lists, tuples and dicts
    of these; they come back with their types, dtypes and shapes. copy=False hands out arrays over the
    cache's own memory, which must not be written to.
    ValueError: neither `key` nor `version`, of a function whose code does not say all that it does: a closure, or no plain
    function. TypeError: arguments that cannot be hashed, or a result that cannot be stored.
    """

    def decorate(function: _Function) -> _Function:
        if inspect.iscoroutinefunction(function):
            raise TypeError("memoize is for plain functions; use AsyncClient.get_or_compute")
        named = None if key is not None else identity(function, version)

        @functools.wraps(function)
        def memoized(*args: Any, **kwargs: Any) -> Any:
            if key is not None:
                full_key = key(*args, **kwargs)
            else:
                full_key = b"memo/" + digest((named, args, kwargs)).hex().encode()
            return cached_call(client, full_key, lambda: function(*args, **kwargs), kind, ttl, copy)

        return memoized  # type: ignore[return-value]

    return decorate


def identity(function: Callable[..., Any], version: str) -> tuple[Any, ...]:
    """What a function is known by in keys: its name, and what it does as far as its code says that; or `version`, if
    there is one. ValueError: neither says it."""
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__qualname__)}"
    if version:
        return name, version
    code = getattr(function, "__code__", None)
    if code is None or getattr(function, "__closure__", None):
        raise ValueError(
            f"{name} is {'no plain function' if code is None else 'a closure'}, and its name and code do not say all that "
            "it does: say it by version="
        )
    defaults = (getattr(function, "__defaults__", None), getattr(function, "__kwdefaults__", None))
    try:
        return name, _code_of(code), digest(defaults)
    except TypeError as error:
        raise ValueError(f"{name} has a default that is no part of a key ({error}): say what it does by version=") from None


def _code_of(code: Any) -> list[Any]:
    constants = [
        _code_of(one) if inspect.iscode(one) else sorted(map(repr, one)) if isinstance(one, frozenset) else repr(one)
        for one in code.co_consts
    ]  # a set's order is another in each process
    return [code.co_code, constants, list(code.co_names), list(code.co_varnames)]


def cached_call(
    client: Client, key: Key, function: Callable[[], Any], kind: Kind, ttl: float | None, copy: bool
) -> Any:
    """The result of `function()`, from under `key` if it is there. Computed here, it is the function's own."""
    made: list[Any] = []

    def compute() -> Any:
        made[:] = [function()]
        return _structure.pack(made[0])

    view = client.get_or_compute(key, compute, kind=kind, ttl=ttl)
    return made[0] if made else _take(view, copy)


def _take(view: View, copy: bool) -> Any:
    with view:
        return _structure.unpack(view, copy)


def digest(value: Any) -> bytes:
    """20 bytes that equal values have in common, in every process. TypeError: not one of memoize's."""
    state = hashlib.blake2b(digest_size=20)
    _feed(state, value)
    return state.digest()


def _feed(state: Any, value: Any) -> None:
    """Each value as a tag, its length and its bytes, so that no two sequences of values read the same."""
    if value is None or type(value) in (bool, int, float, str):
        _feed_bytes(state, type(value).__name__, repr(value).encode())
    elif isinstance(value, (bytes, bytearray)):
        _feed_bytes(state, "bytes", value)
    elif type(value) in (list, tuple):
        state.update(f"{type(value).__name__}:{len(value)};".encode())
        for element in value:
            _feed(state, element)
    elif type(value) is dict:
        # In the order of the keys' own hashes: two dicts are equal whatever their order.
        items = sorted(((digest(k), v) for k, v in value.items()), key=lambda item: item[0])
        state.update(f"dict:{len(items)};".encode())
        for hashed, element in items:
            state.update(hashed)
            _feed(state, element)
    elif isinstance(value, (np.ndarray, np.generic)):
        _feed_tensor(state, "numpy", value)
    elif (torch := sys.modules.get("torch")) is not None and isinstance(value, torch.Tensor):
        _feed_tensor(state, "torch", value.detach().cpu())
    else:
        raise TypeError(
            f"cannot hash a {type(value).__module__}.{type(value).__qualname__} into a key; pass memoize(key=...)"
        )


def _feed_bytes(state: Any, tag: str, content: Any) -> None:
    state.update(f"{tag}:{len(content)};".encode())
    state.update(content)


def _feed_tensor(state: Any, tag: str, value: Any) -> None:
    buffer, code, shape = describe(value)[0]
    state.update(f"{tag}:{code}:{len(shape)};".encode() + struct.pack(f"<{len(shape)}Q", *shape))
    state.update(buffer)
