"""Outputs of torch modules as objects of the cache: embeddings of an encoder, activations."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from . import _memoize

if TYPE_CHECKING:
    from ._client import Client, Kind

# Of a transformers config: where the weights came from, which does not change what they compute.
_NOT_THE_MODEL = ("_name_or_path", "transformers_version", "_commit_hash")
_NOT_ATTRIBUTES = ("name_or_path", "is_hf_initialized", "warnings_issued", "hf_device_map")  # of its models


# What torch itself keeps in every module: hooks, whether it is in training mode, and what is hashed as tensors.
_OF_EVERY_MODULE = frozenset(vars(torch.nn.Module()))
# Which of the adapters that are loaded are at work, as peft's layers have it.
_ADAPTERS = ("_active_adapter", "_disable_adapters", "merged_adapters", "scaling")
_UNKNOWN = object()


def module_fingerprint(module: torch.nn.Module) -> str:
    """40 hex digits that two modules have in common if their classes, structure, configuration, plain attributes and
    every parameter and buffer are equal, in any process.

    Plain attributes are numbers, str, bytes, None, dtypes, tensors, functions and classes by their names, and lists,
    tuples and dicts of these. Reads all weights once, about a second per GB. It does not know the code of `forward`,
    nor hooks, nor other attributes. TypeError: a parameter of a dtype that objects do not have; name the model
    yourself then.
    """
    config: Any = getattr(module, "config", None)
    configured = config.to_dict() if hasattr(config, "to_dict") else {}
    for name in _NOT_THE_MODEL:
        configured.pop(name, None)
    return _memoize.digest(
        [
            f"{type(module).__module__}.{type(module).__qualname__}",
            repr(module),
            json.dumps(configured, sort_keys=True, default=str),
            {name: _attributes(part) for name, part in module.named_modules()},
            {name: tensor.detach() for name, tensor in module.named_parameters()},
            {name: tensor.detach() for name, tensor in module.named_buffers()},
        ]
    ).hex()


def active_adapters(module: torch.nn.Module) -> str:
    """What of a module can be switched without other weights: which adapters are at work. Empty: it has none."""
    found = []
    for name, part in module.named_modules():
        state = {key: _plain(vars(part).get(key, _UNKNOWN)) for key in _ADAPTERS}
        if any(value is not _UNKNOWN for value in state.values()):
            found.append((name, {key: value for key, value in state.items() if value is not _UNKNOWN}))
    return _memoize.digest(found).hex() if found else ""


def _attributes(module: torch.nn.Module) -> list[Any]:
    own = {name: value for name, value in vars(module).items() if name not in _OF_EVERY_MODULE}
    plain = {name: _plain(value) for name, value in own.items() if name.lstrip("_") not in _NOT_ATTRIBUTES}
    known = {name: value for name, value in plain.items() if value is not _UNKNOWN}
    return [f"{type(module).__module__}.{type(module).__qualname__}", known]


def _plain(value: Any) -> Any:
    """The same of what a key can be made of, or _UNKNOWN."""
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, torch.dtype):
        return str(value)
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, (list, tuple)):
        elements = [_plain(element) for element in value]
        return _UNKNOWN if any(element is _UNKNOWN for element in elements) else elements
    if isinstance(value, dict):
        items = {repr(key): _plain(element) for key, element in value.items()}
        return _UNKNOWN if any(element is _UNKNOWN for element in items.values()) else items
    if callable(value) and isinstance(getattr(value, "__qualname__", None), str):
        return f"{getattr(value, '__module__', None)}.{value.__qualname__}"
    return _UNKNOWN


def _autocast() -> list[tuple[str, str]]:
    """What autocast computes in, by the kind of device."""
    kinds = filter(torch.amp.is_autocast_available, ("cpu", "cuda", "mps", "xpu"))
    return [(kind, str(torch.get_autocast_dtype(kind))) for kind in kinds if torch.is_autocast_enabled(kind)]


def cached_module(
    module: torch.nn.Module,
    client: Client,
    *,
    fingerprint: str | None = None,
    output: Callable[[Any], Any] | None = None,
    version: str = "",
    kind: Kind = "embedding",
    ttl: float | None = None,
) -> Callable[..., Any]:
    """A function that computes as `module` does, or takes from the cache what it computed before for
    equal inputs, in whichever process.

    The key is a hash of the inputs (tensors, arrays, numbers, str, None, and lists, tuples and dicts of
    these), of torch.autocast's state, of the adapters (of peft) that are at work, and of `fingerprint`, which names the
    module and its weights: `module_fingerprint(module)`, taken once, unless it is given. Of the workers that miss a key
    one computes it.

    `output(result)` is what is kept and returned, for results that are no tensors, or for a part of
    them: `output=lambda result: result.last_hidden_state`. Its code is part of the key, or else `version`, if that is
    given. Results are CPU tensors, or lists, tuples or dicts of these; they come back as private ones, bit for bit.
    They carry no gradients: it is for inference. ValueError: an `output` whose code does not say all that it does (a
    closure, or no plain function), and no `version`; when it is called: the module is in training mode. TypeError:
    inputs that cannot be hashed, or a result that cannot be stored.
    """
    identity = module_fingerprint(module) if fingerprint is None else fingerprint
    taken = None if output is None else _memoize.identity(output, version)

    @functools.wraps(module.forward)
    def cached(*args: Any, **kwargs: Any) -> Any:
        if module.training:
            raise ValueError(
                "the module is in training mode, where outputs are not functions of inputs: eval()"
            )

        def compute() -> Any:
            with torch.no_grad():
                result = module(*args, **kwargs)
                return result if output is None else output(result)

        computed_by = (identity, active_adapters(module), _autocast(), taken)
        key = b"module/" + _memoize.digest((computed_by, args, kwargs)).hex()[:32].encode()
        return _memoize.cached_call(client, key, compute, kind, ttl, copy=True)

    return cached
