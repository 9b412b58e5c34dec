#!/usr/bin/env python3
"""A conversation about a long document, in two processes that share prefixes through infercached.

The model is a Llama with random weights, built from a configuration: nothing is downloaded, the answers
are noise, the computation is not. Worker 1 computes every prompt from its first token and stores its
blocks; worker 2 asks the cache first. Their answers must be the same token for token, and the logits
close within 1e-5; then the times of both are printed. Each computes on one core.

    python client/python/examples/hf_prefix_cache.py --endpoint unix:/run/infercache/infercached.sock

Exits with 1 if answers differ, or if a warm prefill of 2,000 tokens or more is not at least 5 times as
fast as the cold one.
"""

import argparse
import inspect
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

import infercache
from infercache.hf import PrefixCache

TOLERANCE = 1e-5
SPEED_UP = 5
FROM_TOKENS = 2000
QUESTIONS = [
    "What is this program for?",
    "What happens when a worker dies while it writes a block?",
    "Which two commands show that it works?",
]


def main() -> int:
    options = parse_options()
    if options.worker is not None:
        run_worker(options)
        return 0
    cold = spawn(options, "cold")
    warm = spawn(options, "warm")
    return report(cold, warm)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--endpoint", help="of infercached; default: as infercache.connect")
    parser.add_argument("--tokens", type=int, default=2560, help="of the document (default %(default)s)")
    parser.add_argument("--answer", type=int, default=16, help="tokens of an answer (default %(default)s)")
    parser.add_argument("--worker", choices=["cold", "warm"], help=argparse.SUPPRESS)
    return parser.parse_args()


# --- A worker: one process, one conversation ---


def run_worker(options: argparse.Namespace) -> None:
    """Prints a JSON object a turn."""
    torch.set_num_threads(1)  # threads that wait for each other would measure what else the machine does
    torch.manual_seed(42)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=256, hidden_size=512, intermediate_size=1408, num_hidden_layers=6,
            num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=65536,
        )
    ).eval()  # fmt: skip
    with infercache.connect(
        options.endpoint, fingerprint={"model": "random-llama", "dtype": "float32"}
    ) as client:
        client.ping()
        prefixes = PrefixCache(model, client)
        prompt = document(options.tokens)
        for question in QUESTIONS:
            prompt = torch.cat([prompt, encode(f"\n\nQ: {question}\nA: ")])
            turn = cold_turn(prefixes, prompt) if options.worker == "cold" else warm_turn(prefixes, prompt)
            answer = generate(model, turn.pop("cache"), turn["logits"], options.answer)
            prompt = torch.cat([prompt, answer])
            turn.update(pid=os.getpid(), logits=turn["logits"].tolist(), answer=answer.tolist())
            print(json.dumps(turn), flush=True)


def cold_turn(prefixes: PrefixCache, prompt: torch.Tensor) -> dict:
    cache = DynamicCache(config=prefixes.model.config)
    start = time.perf_counter()
    logits = forward(prefixes.model, prompt, cache)
    seconds = time.perf_counter() - start
    stored = prefixes.store(prompt, cache, compute_cost_ms=seconds * 1e3 / len(prompt))
    return {
        "tokens": len(prompt), "reused": 0, "stored": stored, "seconds": seconds, "logits": logits, "cache": cache,
    }  # fmt: skip


def warm_turn(prefixes: PrefixCache, prompt: torch.Tensor) -> dict:
    start = time.perf_counter()
    done = prefixes.prefill(prompt)  # looks up, computes the rest, stores what is new
    seconds = time.perf_counter() - start
    return {
        "tokens": len(prompt), "reused": done.reused_tokens, "stored": done.stored_blocks, "seconds": seconds,
        "logits": done.logits[0], "cache": done.cache,
    }  # fmt: skip


def forward(model: LlamaForCausalLM, ids: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
    """Logits of the token after `ids`, which are added to the cache. transformers 4 and 5 have other
    names for the argument."""
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    with torch.no_grad():
        return model(input_ids=ids[None], use_cache=True, logits_to_keep=1, **{name: cache}).logits[0, -1]


def generate(model: LlamaForCausalLM, cache: DynamicCache, logits: torch.Tensor, count: int) -> torch.Tensor:
    answer = []
    for _ in range(count):
        answer.append(logits.argmax())
        logits = forward(model, answer[-1][None], cache)
    return torch.stack(answer)


def document(tokens: int) -> torch.Tensor:
    """So many bytes of this repository's own pages, or of this file where there is no repository."""
    pages = [Path(__file__).resolve().parents[3] / name for name in ("README.md", "ARCHITECTURE.md")]
    text = "".join(page.read_text() for page in pages if page.exists()) or Path(__file__).read_text()
    ids = encode(text)
    return ids.repeat(-(-tokens // len(ids)))[:tokens]


def encode(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode()))


# --- Both of them ---


def spawn(options: argparse.Namespace, role: str) -> list[dict]:
    command = [sys.executable, __file__, "--worker", role]
    command += ["--tokens", str(options.tokens), "--answer", str(options.answer)]
    if options.endpoint is not None:
        command += ["--endpoint", options.endpoint]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


def report(cold: list[dict], warm: list[dict]) -> int:
    print(f"worker 1 is process {cold[0]['pid']}, worker 2 is process {warm[0]['pid']}\n")
    print("turn  prompt  reused  cold prefill  warm prefill  speed-up  answer     logits differ by")
    failed = False
    for number, (one, two) in enumerate(zip(cold, warm, strict=True), 1):
        same = one["answer"] == two["answer"]
        apart = max(abs(a - b) for a, b in zip(one["logits"], two["logits"], strict=True))
        ratio = one["seconds"] / two["seconds"]
        print(
            f"{number:4}  {one['tokens']:6}  {two['reused']:6}  {one['seconds']:10.3f} s  {two['seconds']:10.3f} s"
            f"  {ratio:7.1f}x  {'identical' if same else 'DIFFERENT'}  {apart:.1e}"
        )
        slow = one["tokens"] >= FROM_TOKENS and ratio < SPEED_UP
        failed = failed or not same or apart > TOLERANCE or slow
    print(f"\n{'FAILED' if failed else 'passed'}: identical answers, logits within {TOLERANCE}, ", end="")
    print(f"{SPEED_UP} times as fast from {FROM_TOKENS} tokens on")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
