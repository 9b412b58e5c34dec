"""Nested results as the parts of one object, and back.

The first part is JSON that says what the value is made of; the others are its leaves. Every leaf begins at
a multiple of 64 bytes from the object's beginning, so that it can be used where it lies.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays import PartIn, describe

if TYPE_CHECKING:
    from ._core import View

_FORMAT = 1
_ALIGNMENT = 64


def pack(value: Any) -> list[Any]:
    """What `put` takes for it. TypeError: it contains something that is neither a tensor, array,
    bytes, str, number, bool or None, nor a list, tuple or dict of these."""
    leaves: list[Any] = []
    tree = _tree(value, leaves)
    header = json.dumps([_FORMAT, tree]).encode()
    parts: list[Any] = [header + b" " * (-len(header) % _ALIGNMENT)]
    for leaf in leaves:
        parts.append(leaf)
        nbytes = leaf.nbytes if hasattr(leaf, "nbytes") else len(leaf)
        parts.append(bytes(-nbytes % _ALIGNMENT))
    return parts


def _tree(value: Any, leaves: list[Any]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)) and type(value).__module__ == "builtins":
        return value
    if type(value) in (list, tuple):
        return {type(value).__name__: [_tree(element, leaves) for element in value]}
    if type(value) is dict:
        return {"dict": [[_tree(k, leaves), _tree(v, leaves)] for k, v in value.items()]}
    torch = sys.modules.get("torch")
    if isinstance(value, bytes):
        name = "bytes"
    elif isinstance(value, (np.ndarray, np.generic)):
        name, value = ("numpy" if isinstance(value, np.ndarray) else "scalar"), np.asarray(value)
    elif torch is not None and isinstance(value, torch.Tensor):
        name = "torch"
    else:
        raise TypeError(
            f"cannot cache a {type(value).__module__}.{type(value).__qualname__}: return tensors, arrays, bytes, "
            "str, numbers, None, or lists, tuples or dicts of these"
        )
    describe(value)  # raises for a dtype that objects do not have
    leaves.append(value)
    return {name: len(leaves) * 2 - 1}


def unpack(view: View, copy: bool) -> Any:
    """The value. Without copy its tensors and arrays are the view's own bytes. ValueError: the object
    is none that pack made."""
    exporter, dtype, _ = view._part(0, False)
    try:
        document = json.loads(bytes(exporter)) if dtype == "bytes" else None
    except ValueError:
        document = None
    if not isinstance(document, list) or len(document) != 2 or document[0] != _FORMAT:
        raise ValueError("the object under this key is not a memoized result")
    return _value(document[1], view, copy)


def _value(tree: Any, view: View, copy: bool) -> Any:
    if not isinstance(tree, dict):
        return tree
    [(name, content)] = tree.items()
    if name == "dict":
        return {_value(k, view, copy): _value(v, view, copy) for k, v in content}
    if name == "list":
        return [_value(element, view, copy) for element in content]
    if name == "tuple":
        return tuple(_value(element, view, copy) for element in content)
    if name == "bytes":
        return view.numpy(content).tobytes()
    if name == "torch":
        return view.torch(content, copy=copy)
    array = view.numpy(content, copy=copy)
    return array if name == "numpy" else array[()]
