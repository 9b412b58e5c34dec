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


def module_fingerprint(module: torch.nn.Module) -> str:
    """40 hex digits that two modules have in common if their class, structure, configuration and every
    parameter and buffer are equal, in any process.

    Reads all weights once, about a second per GB. It does not know the code of `forward`, nor hooks.
    TypeError: a parameter of a dtype that objects do not have; name the model yourself then.
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
            {name: tensor.detach() for name, tensor in module.named_parameters()},
            {name: tensor.detach() for name, tensor in module.named_buffers()},
        ]
    ).hex()


def cached_module(
    module: torch.nn.Module,
    client: Client,
    *,
    fingerprint: str | None = None,
    output: Callable[[Any], Any] | None = None,
    kind: Kind = "embedding",
    ttl: float | None = None,
) -> Callable[..., Any]:
    """A function that computes as `module` does, or takes from the cache what it computed before for
    equal inputs, in whichever process.

    The key is a hash of the inputs (tensors, arrays, numbers, str, None, and lists, tuples and dicts of
    these) and of `fingerprint`, which names the module and its weights: `module_fingerprint(module)`,
    taken once, unless it is given. Of the workers that miss a key one computes it.

    `output(result)` is what is kept and returned, for results that are no tensors, or for a part of
    them: `output=lambda result: result.last_hidden_state`. Results are CPU tensors, or lists, tuples or
    dicts of these; they come back as private ones, bit for bit. They carry no gradients: it is for
    inference. ValueError, when it is called: the module is in training mode. TypeError: inputs that
    cannot be hashed, or a result that cannot be stored.
    """
    identity = module_fingerprint(module) if fingerprint is None else fingerprint

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

        key = b"module/" + _memoize.digest((identity, args, kwargs)).hex()[:32].encode()
        return _memoize.cached_call(client, key, compute, kind, ttl, copy=True)

    return cached
