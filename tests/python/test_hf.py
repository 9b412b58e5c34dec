"""infercache.hf: prefixes of prompts for models of transformers, over both lanes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import infercache
from conftest import ROOT, until

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from infercache.hf import PrefixCache  # noqa: E402  (needs both)
from infercache.torch import module_fingerprint  # noqa: E402

torch.set_num_threads(1)  # the models are small, and the tests' machine has other work
BLOCK = 16
EXAMPLE = ROOT / "client" / "python" / "examples" / "hf_prefix_cache.py"


def make_model(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, eos_token_id=None, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).to(dtype).eval()


@pytest.fixture(scope="module")
def model():
    return make_model()


def prompt_of(tokens, seed=1):
    return torch.randint(0, 256, (tokens,), generator=torch.Generator().manual_seed(seed))


def cold_logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids[None]).logits[:, -1]


def test_a_second_worker_reuses_the_prefix(client, connect, model):
    ids = prompt_of(100)
    cold = PrefixCache(model, client, block_tokens=BLOCK).prefill(ids)
    assert (cold.reused_tokens, cold.computed_tokens, cold.stored_blocks) == (0, 100, 6)
    longer = torch.cat([ids, prompt_of(50, seed=2)])
    for prompt, reused, stored in [(ids, 96, 0), (longer, 96, 3), (longer, 144, 0), (ids[None], 96, 0)]:
        warm = PrefixCache(model, client, block_tokens=BLOCK).prefill(prompt)
        assert (warm.reused_tokens, warm.stored_blocks) == (reused, stored)
        assert warm.cache.get_seq_length() == prompt.numel()
        assert torch.allclose(warm.logits, cold_logits(model, prompt.view(-1)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
def test_one_token_is_always_computed(local, model, tokens):
    prefixes = PrefixCache(model, local, block_tokens=BLOCK)
    ids = prompt_of(tokens)
    assert prefixes.prefill(ids).stored_blocks == tokens // BLOCK
    warm = prefixes.prefill(ids)
    assert warm.reused_tokens == (tokens - 1) // BLOCK * BLOCK
    assert torch.allclose(warm.logits, cold_logits(model, ids), rtol=0, atol=1e-5)


def test_a_conversation_of_generated_answers(local, model):
    prefixes = PrefixCache(model, local, block_tokens=BLOCK)
    prompt = prompt_of(60)
    for turn in range(3):
        reused = prefixes.lookup(prompt).get_seq_length()
        # The answer before this question was stored, too, but for its last token.
        assert reused == (0 if turn == 0 else (len(prompt) - 11) // BLOCK * BLOCK)
        options = {"max_new_tokens": 20, "do_sample": False}
        plain = model.generate(prompt[None], attention_mask=torch.ones(1, len(prompt)), **options)
        answered = prefixes.generate(prompt[None], **options)
        assert torch.equal(answered, plain)
        prompt = torch.cat([answered[0], prompt_of(10, seed=turn)])


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_return_sequences": 2, "num_beams": 2},
                                     {"prompt_lookup_num_tokens": 3}], ids=str)  # fmt: skip
def test_searches_that_need_another_cache_are_the_models_own(local, model, options):
    """Over a cached prefix beams crashed, and decoding with an assistant gave other tokens."""
    prefixes = PrefixCache(model, local, block_tokens=BLOCK)
    ids = torch.cat([prompt_of(20), prompt_of(20)])
    options |= {"max_new_tokens": 30, "do_sample": False}
    plain = model.generate(ids[None], attention_mask=torch.ones(1, len(ids)), **options)
    assert torch.equal(prefixes.generate(ids, **options), plain)
    assert list(local.keys()) == []
    prefixes.prefill(ids)
    keys = sorted(local.keys())
    assert torch.equal(prefixes.generate(ids, **options), plain)
    config = transformers.GenerationConfig(**options, pad_token_id=0)
    assert torch.equal(prefixes.generate(ids, generation_config=config), plain)
    assert sorted(local.keys()) == keys


def test_tokens_that_are_the_padding_are_attended_to(local, model):
    """They were hidden, and the blocks stored as if they were not."""
    prefixes = PrefixCache(model, local, block_tokens=BLOCK)
    ids = prompt_of(40)
    ids[3:6] = model.config.pad_token_id
    options = {"max_new_tokens": 10, "do_sample": False}
    plain = model.generate(ids[None], attention_mask=torch.ones(1, len(ids)), **options)
    assert torch.equal(prefixes.generate(ids, **options), plain)
    assert torch.equal(prefixes.generate(ids, attention_mask=torch.ones(1, len(ids)), **options), plain)
    warm = prefixes.prefill(ids)
    assert warm.reused_tokens == 2 * BLOCK
    assert torch.allclose(warm.logits, cold_logits(model, ids), rtol=0, atol=1e-5)


def test_models_whose_keys_are_no_functions_of_the_tokens_before_are_refused(local):
    for rope in (
        {"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
         "original_max_position_embeddings": 64},
        {"rope_type": "dynamic", "factor": 2.0},
    ):  # fmt: skip
        config = make_model().config
        config.rope_scaling = rope | {"rope_theta": 10000.0}
        with pytest.raises(ValueError, match="depend on the length of the whole sequence"):
            PrefixCache(transformers.LlamaForCausalLM(config).eval(), local)
    prefixes = PrefixCache(make_model().train(), local)
    for call in (prefixes.prefill, prefixes.generate):
        with pytest.raises(ValueError, match="training mode"):
            call(prompt_of(40))


def test_adapters_that_are_switched_find_nothing_of_each_other(local):
    model = make_model()
    prefixes = PrefixCache(model, local, block_tokens=BLOCK)
    ids = prompt_of(40)
    prefixes.prefill(ids)
    model.model.layers[0].self_attn.q_proj._active_adapter = ["a"]
    assert prefixes.prefill(ids).reused_tokens == 0
    model.model.layers[0].self_attn.q_proj._active_adapter = ["b"]
    assert prefixes.prefill(ids).reused_tokens == 0
    assert prefixes.prefill(ids).reused_tokens == 2 * BLOCK


def test_a_model_that_was_saved_and_loaded_is_the_same(tmp_path):
    model = make_model()
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        model.save_pretrained(folder)
    loaded = [transformers.LlamaForCausalLM.from_pretrained(folder).eval() for folder in folders]
    assert len({module_fingerprint(one) for one in loaded}) == 1


def test_what_is_looked_up_is_private(local, model):
    prefixes = PrefixCache(model, local, block_tokens=BLOCK)
    ids = prompt_of(BLOCK + 1)
    stored = prefixes.prefill(ids).cache
    for layer in prefixes.lookup(ids).layers:
        layer.keys.zero_()
        layer.values.zero_()
    for layer, original in zip(prefixes.lookup(ids).layers, stored.layers, strict=True):
        assert torch.equal(layer.keys, original.keys[:, :, :BLOCK])
        assert torch.equal(layer.values, original.values[:, :, :BLOCK])


def test_blocks_are_stored_bit_for_bit_as_parts(local):
    model = make_model(dtype=torch.bfloat16)
    prefixes = PrefixCache(model, local, block_tokens=BLOCK)
    cache = prefixes.prefill(prompt_of(2 * BLOCK)).cache
    keys = list(local.keys())
    views = local.get_many(keys)
    assert {view.kind for view in views} == {"kv"} and all(view.compute_cost_ms > 0 for view in views)
    assert [view.parts for view in views] == [[("bfloat16", (2, BLOCK, 16), 2 * BLOCK * 32)] * 6] * 2
    first = next(v for v in views if torch.equal(v.torch(0), cache.layers[0].keys[0, :, :BLOCK]))
    assert torch.equal(first.torch(5), cache.layers[2].values[0, :, :BLOCK])


def test_other_models_do_not_find_each_others_blocks(local, model):
    ids = prompt_of(100)
    PrefixCache(model, local, block_tokens=BLOCK).prefill(ids)
    other = make_model(seed=7)
    assert PrefixCache(other, local, block_tokens=BLOCK).prefill(ids).reused_tokens == 0
    assert PrefixCache(model, local, block_tokens=2 * BLOCK).prefill(ids).reused_tokens == 0
    assert PrefixCache(make_model(), local, block_tokens=BLOCK).prefill(ids).reused_tokens == 96


def test_a_gap_ends_the_prefix(local, model):
    prefixes = PrefixCache(model, local, block_tokens=BLOCK)
    ids = prompt_of(100)
    prefixes.prefill(ids)
    keys = prefixes._keys(ids)
    assert local.delete(keys[3])
    warm = prefixes.prefill(ids)
    assert (warm.reused_tokens, warm.stored_blocks) == (3 * BLOCK, 1)
    assert torch.allclose(warm.logits, cold_logits(model, ids), rtol=0, atol=1e-5)
    local.put(keys[1], b"no block of this model", overwrite=True)
    assert prefixes.prefill(ids).reused_tokens == BLOCK


def test_each_layer_is_where_the_device_map_puts_it(local):
    """torch's meta device stands for a second GPU."""
    model = make_model()
    ids = prompt_of(2 * BLOCK + 1)
    PrefixCache(model, local, block_tokens=BLOCK).prefill(ids)
    others = {"model.embed_tokens": "meta", "model.norm": "meta", "lm_head": "meta"}
    # accelerate's "cpu" is offloading, so the first two are on the CPU by another name of it
    model.hf_device_map = {f"model.layers.{i}": "cpu:0" if i < 2 else "meta" for i in range(3)} | others
    found = PrefixCache(model, local, block_tokens=BLOCK).lookup(ids)
    assert [layer.keys.device.type for layer in found.layers] == ["cpu", "cpu", "meta"]
    assert found.get_seq_length() == 2 * BLOCK
    model.hf_device_map = {"": "meta"}
    assert PrefixCache(model, local, block_tokens=BLOCK).lookup(ids).layers[2].keys.device.type == "cpu"
    for places in (
        {"model.layers.0": "meta", "model.layers.1": "cpu", "model.layers.2": "disk"},
        {"model.layers.0.mlp": "meta", "model.layers.0.self_attn": "cpu:0"},
        {
            f"model.{tower}.layers.{i}": "meta" if i else "cpu:0"
            for i in range(3)
            for tower in ("text", "vision")
        },
    ):
        model.hf_device_map = places
        with pytest.raises(ValueError, match="device map"):
            PrefixCache(model, local)


def test_prompts_that_tokens_do_not_name_are_refused(local, model):
    prefixes = PrefixCache(model, local)
    with pytest.raises(ValueError, match="one prompt"):
        prefixes.prefill(prompt_of(20).view(2, 10))
    with pytest.raises(ValueError, match="one prompt"):
        prefixes.prefill(prompt_of(0))
    with pytest.raises(ValueError, match="attention_mask"):
        prefixes.generate(prompt_of(4), attention_mask=torch.tensor([[0, 1, 1, 1]]))
    with pytest.raises(ValueError, match="pixel_values"):
        prefixes.generate(prompt_of(4), pixel_values=torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="block_tokens"):
        PrefixCache(model, local, block_tokens=0)
    sliding = transformers.MistralConfig(
        vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=8,
    )  # fmt: skip
    with pytest.raises(ValueError, match="layer 0"):
        PrefixCache(transformers.MistralForCausalLM(sliding), local)


def test_a_daemon_that_is_not_there_costs_nothing_but_the_prefill(tmp_path, model):
    with infercache.connect(f"unix:{tmp_path}/none.sock", deadline=1) as client:
        ids = prompt_of(50)
        done = PrefixCache(model, client, block_tokens=BLOCK).prefill(ids)
        assert (done.reused_tokens, done.stored_blocks) == (0, 0)
        assert torch.allclose(done.logits, cold_logits(model, ids), rtol=0, atol=1e-5)


def test_a_restarted_daemon_is_filled_again(own_daemon, model):
    with infercache.connect(own_daemon.endpoint, deadline=2) as client:
        prefixes = PrefixCache(model, client, block_tokens=BLOCK)
        ids = prompt_of(100)
        expected = prefixes.prefill(ids).logits
        own_daemon.kill()
        until(lambda: not client.exists(prefixes._keys(ids)[0]), "the daemon's end")
        dead = prefixes.prefill(ids)
        assert (dead.reused_tokens, dead.stored_blocks) == (0, 0)
        own_daemon.start()
        until(lambda: prefixes.prefill(ids).stored_blocks == 6, "the next daemon takes the blocks")
        warm = prefixes.prefill(ids)
        assert warm.reused_tokens == 96
        for logits in (dead.logits, warm.logits):
            assert torch.allclose(logits, expected, rtol=0, atol=1e-5)


WORKER = """
import sys
import infercache
import test_hf
client = infercache.connect(sys.argv[1], fingerprint={"test": "killed"})
prefixes = test_hf.PrefixCache(test_hf.make_model(), client, block_tokens=test_hf.BLOCK)
for seed in range(10**9):
    prefixes.prefill(test_hf.prompt_of(100, seed))
    print(seed, flush=True)
"""


def test_a_killed_worker_leaves_whole_blocks(own_daemon, model):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, own_daemon.endpoint], stdout=subprocess.PIPE, env=environment
    )
    for _ in range(5):
        assert worker.stdout.readline()
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    done = 5 + len(worker.stdout.readlines())
    with infercache.connect(own_daemon.endpoint, fingerprint={"test": "killed"}) as client:
        prefixes = PrefixCache(model, client, block_tokens=BLOCK)
        for seed in range(done + 2):  # the last ones were not finished, or never begun
            warm = prefixes.prefill(prompt_of(100, seed))
            assert seed >= done or warm.reused_tokens == 96
            assert torch.allclose(warm.logits, cold_logits(model, prompt_of(100, seed)), rtol=0, atol=1e-5)


def test_the_example_is_five_times_as_fast_when_warm(own_daemon):
    """And its tokens identical, its logits within 1e-5: it says so by its exit status."""
    command = [sys.executable, EXAMPLE, "--endpoint", own_daemon.endpoint]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
