"""Prefixes of prompts as objects of the cache, for models of transformers.

    prefixes = infercache.hf.PrefixCache(model, client)
    ids = prefixes.generate(input_ids, max_new_tokens=100)     # as model.generate, less the prefill

Needs torch and transformers, from 4.56 on.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ._client import Put
from .torch import active_adapters, module_fingerprint

if TYPE_CHECKING:
    from ._client import Client
    from ._core import View

_FORMAT = "1"
# Options of generate under which it fills one cache with one sequence, token by token, and what they are then.
_ONE_SEQUENCE = {
    "num_beams": 1, "num_beam_groups": 1, "num_return_sequences": 1, "penalty_alpha": 0.0, "dola_layers": None,
    "prompt_lookup_num_tokens": None, "assistant_model": None, "assistant_early_exit": None, "custom_generate": None,
    "use_cache": True, "cache_implementation": None,
}  # fmt: skip


class Prefill(NamedTuple):
    """What `PrefixCache.prefill` did with a prompt."""

    logits: torch.Tensor  # of the token after the prompt: [1, vocabulary]
    cache: DynamicCache  # of the whole prompt
    reused_tokens: int  # that came from infercached
    computed_tokens: int
    stored_blocks: int  # that were new to infercached


class PrefixCache:
    """The longest cached prefix of a prompt, instead of its prefill.

    A prompt is cut into blocks of `block_tokens`. A block is one object: keys and values of every layer,
    each [heads, tokens, dim], under a hash of the model and of all tokens up to the block's end. So
    prompts that begin alike share blocks, and blocks of other models are never found. `fingerprint`
    names the model and its weights: `infercache.torch.module_fingerprint(model)`, taken once, unless
    it is given.

    For prompts that are token ids alone, one at a time (a batch of 1): no padding, images or embeddings.
    Whatever is wrong with the daemon is a miss, and the prompt is computed. Not thread-safe beyond what
    the model is. A model may be spread over several devices (`device_map`). ValueError: a model with layers
    whose state is no prefix of keys and values (sliding windows, linear attention), or whose keys depend on the length of
    the whole sequence (dynamic and long RoPE), or spread in a way that
    does not say where a layer computes (parts of layers, offloading to the CPU or to disk).
    """

    def __init__(
        self, model: Any, client: Client, *, block_tokens: int = 256, fingerprint: str | None = None
    ) -> None:
        if block_tokens < 1:
            raise ValueError(f"block_tokens must be positive, not {block_tokens}")
        layers = DynamicCache(config=model.config).layers
        for index, layer in enumerate(layers):
            if type(layer) is not DynamicLayer:
                raise ValueError(
                    f"layer {index} of {type(model).__name__} keeps a {type(layer).__name__}, which is no prefix "
                    "of keys and values"
                )
        for rope in _rope_types(model.config):
            if rope == "longrope" or "dynamic" in rope:
                raise ValueError(
                    f"the keys of {type(model).__name__} depend on the length of the whole sequence (rope_type {rope!r}), so "
                    "that prompts which begin alike do not share them"
                )
        self.model = model
        self.client = client
        self.block_tokens = block_tokens
        self._part_count = 2 * len(layers)
        self._devices = _layer_devices(model, len(layers))
        self.fingerprint = module_fingerprint(model) if fingerprint is None else fingerprint
        parameters = inspect.signature(model.forward).parameters
        # transformers 4 and 5 have other names for it.
        self._cache_argument = "cache" if "cache" in parameters else "past_key_values"
        # Logits of the whole prompt would cost more than the prefill of a short rest.
        self._last_logits = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    def prefill(self, input_ids: torch.Tensor) -> Prefill:
        """Computes what is not cached of a prompt ([tokens] or [1, tokens]), and stores its new blocks. ValueError: the
        model is in training mode."""
        ids = self._prompt_of_inference(input_ids)
        cache, keys = self._lookup(ids)
        reused = cache.get_seq_length()
        start = time.perf_counter()
        with torch.no_grad():
            logits = self.model(
                input_ids=ids[None, reused:].to(self.model.device),
                use_cache=True, **{self._cache_argument: cache}, **self._last_logits,
            ).logits[:, -1]  # fmt: skip
        cost_ms = (time.perf_counter() - start) * 1e3 / (len(ids) - reused)
        stored = self._store(keys, cache, reused // self.block_tokens, cost_ms)
        return Prefill(logits, cache, reused, len(ids) - reused, stored)

    def generate(self, input_ids: torch.Tensor, **options: Any) -> Any:
        """`model.generate(input_ids, **options)` over the cached prefix, with all tokens attended to; what it returns.
        Blocks of the prompt and of the answer are stored. Several beams or answers, and decoding with an assistant
        (`prompt_lookup_num_tokens` too), need a cache of another form: then it is model.generate, and nothing is
        stored. ValueError: options that are inputs of the model; the model is in training mode."""
        ids = self._prompt_of_inference(input_ids)
        mask = options.pop("attention_mask", None)
        if mask is not None and not bool(mask.all()):
            raise ValueError("attention_mask hides tokens: blocks are found by their tokens alone")
        for name, value in options.items():
            if isinstance(value, torch.Tensor) or name in ("cache", "past_key_values"):
                raise ValueError(f"{name}: blocks are found by the tokens of the prompt alone")
        prompt = ids[None].to(self.model.device)
        # Else tokens that are the model's padding would be hidden.
        options["attention_mask"] = torch.ones_like(prompt)
        if _needs_its_own_cache(self.model, options):
            return self.model.generate(prompt, **options)
        cache, _ = self._lookup(ids)
        reused = cache.get_seq_length()
        start = time.perf_counter()
        result = self.model.generate(prompt, use_cache=True, **{self._cache_argument: cache}, **options)
        sequences = result if isinstance(result, torch.Tensor) else result.sequences
        length = cache.get_seq_length()
        if _states(cache)[0].shape[0] == len(sequences) == 1 and length <= sequences.shape[1]:
            cost_ms = (time.perf_counter() - start) * 1e3 / max(1, length - reused)
            keys = self._keys(sequences[0, :length].cpu())
            self._store(keys, cache, reused // self.block_tokens, cost_ms)
        return result

    def lookup(self, input_ids: torch.Tensor) -> DynamicCache:
        """The cache of the longest prefix that is stored, private to the caller; of no tokens for a miss.
        At least one token of the prompt is left to be computed."""
        return self._lookup(_one_prompt(input_ids))[0]

    def store(self, input_ids: torch.Tensor, cache: DynamicCache, *, compute_cost_ms: float = 0.0) -> int:
        """Stores the blocks of the tokens that `cache` holds; how many were new. `compute_cost_ms`: what a
        token took."""
        ids = _one_prompt(input_ids)[: cache.get_seq_length()]
        return self._store(self._keys(ids), cache, 0, compute_cost_ms)

    def _prompt_of_inference(self, input_ids: torch.Tensor) -> torch.Tensor:
        if self.model.training:
            raise ValueError("the model is in training mode, where its keys and values are random: eval()")
        return _one_prompt(input_ids)

    # --- Blocks ---

    def _keys(self, ids: torch.Tensor) -> list[bytes]:
        """The keys of the whole blocks of a prompt: each hashes the one before it and its own tokens."""
        model = f"{_FORMAT} {self.fingerprint} {active_adapters(self.model)}"
        state = hashlib.blake2b(model.encode(), digest_size=16).digest()
        tokens = ids.to(torch.int64).numpy()
        keys = []
        for end in range(self.block_tokens, len(tokens) + 1, self.block_tokens):
            block = tokens[end - self.block_tokens : end].tobytes()
            state = hashlib.blake2b(state + block, digest_size=16).digest()
            keys.append(b"hf/" + state.hex().encode())
        return keys

    def _lookup(self, ids: torch.Tensor) -> tuple[DynamicCache, list[bytes]]:
        keys = self._keys(ids)
        reusable = keys[: (len(ids) - 1) // self.block_tokens]
        found = self.client.match(reusable)
        views: list[View] = []
        for view in self.client.get_many(reusable[:found]):
            # Evicted since, or not what this model would have stored.
            if view is None or not self._fits(view) or views and view.parts != views[0].parts:
                break
            views.append(view)
        return self._cache_of(views), keys

    def _fits(self, view: View) -> bool:
        parts = view.parts
        return len(parts) == self._part_count and all(
            len(part.shape) == 3 and part.shape[1] == self.block_tokens for part in parts
        )

    def _cache_of(self, views: list[View]) -> DynamicCache:
        cache = DynamicCache(config=self.model.config)
        for layer in range(self._part_count // 2 if views else 0):
            device = self.model.device if self._devices is None else self._devices[layer]
            keys, values = (
                torch.cat([view.torch(part) for view in views], dim=1)[None].to(device)
                for part in (2 * layer, 2 * layer + 1)
            )
            cache.update(keys, values, layer)
        return cache

    def _store(self, keys: list[bytes], cache: DynamicCache, first: int, cost_ms: float) -> int:
        puts = []
        for index in range(first, len(keys)):
            tokens = slice(index * self.block_tokens, (index + 1) * self.block_tokens)
            parts = [states[0, :, tokens].cpu() for states in _states(cache)]
            puts.append(
                Put(
                    keys[index], parts, kind="kv", compute_cost_ms=cost_ms * self.block_tokens,
                    parent=keys[index - 1] if index else None,
                )
            )  # fmt: skip
        return sum(result.outcome == "stored" for result in self.client.put_many(puts))


def _layer_devices(model: Any, count: int) -> list[torch.device] | None:
    """Where each layer's keys and values are, of a model that is spread over devices; None: all on the model's."""
    places: dict[str, Any] = getattr(model, "hf_device_map", None) or {}
    if len(set(map(str, places.values()))) < 2:
        return None
    layers: list[tuple[int, torch.device]] = []
    for name, place in places.items():
        if (found := re.search(r"\.(?:layers|h|blocks)\.(\d+)$", name)) and place not in ("cpu", "disk"):
            layers.append((int(found[1]), torch.device(place)))
    layers.sort(key=lambda layer: layer[0])
    if [index for index, _ in layers] != list(range(count)):
        raise ValueError(
            f"the device map of {type(model).__name__} does not give each of its {count} layers a device of its own"
        )
    return [device for _, device in layers]


def _rope_types(config: Any) -> list[str]:
    """Of a model's layers, as transformers 4 and 5 have them, of parts of the model and kinds of layers, too."""
    found: list[str] = []

    def look(value: Any, is_rope: bool) -> None:
        if not isinstance(value, dict):
            return
        if is_rope:
            found.extend(value[name] for name in ("rope_type", "type") if isinstance(value.get(name), str))
        for name, part in value.items():
            look(part, is_rope or name in ("rope_scaling", "rope_parameters"))

    look(config.to_dict(), is_rope=False)
    return found


def _needs_its_own_cache(model: Any, options: dict[str, Any]) -> bool:
    sources = [vars(source) for source in (options.get("generation_config"), model.generation_config) if source is not None]
    for name, usual in _ONE_SEQUENCE.items():
        values = [options[name]] if name in options else [source.get(name) for source in sources]
        if any(value not in (None, usual) for value in values):
            return True
    return False


def _states(cache: DynamicCache) -> list[torch.Tensor]:
    """Keys and values of every layer, in the order of a block's parts: [batch, heads, tokens, dim] each."""
    layers: list[Any] = cache.layers
    return [states for layer in layers for states in (layer.keys, layer.values)]


def _one_prompt(input_ids: torch.Tensor) -> torch.Tensor:
    """[tokens], on the CPU."""
    ids = input_ids[0] if input_ids.dim() == 2 and len(input_ids) == 1 else input_ids
    if ids.dim() != 1 or len(ids) == 0:
        raise ValueError(f"one prompt is [tokens] or [1, tokens], not {list(input_ids.shape)}")
    return ids.cpu()
