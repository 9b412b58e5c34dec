"""infercache.torch: outputs of modules as objects."""

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from infercache.torch import cached_module, module_fingerprint  # noqa: E402  (needs torch)


class Encoder(torch.nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layer = torch.nn.Linear(8, 4)
        self.register_buffer("scale", torch.tensor(2.0))
        self.calls = 0

    def forward(self, x, *, shift=0.0):
        self.calls += 1
        return self.layer(x) * self.scale + shift


def test_equal_inputs_are_computed_once(client, connect):
    one, two = Encoder().eval(), Encoder().eval()
    endpoint_client = client
    x = torch.randn(3, 8)
    first = cached_module(one, endpoint_client)(x)
    second = cached_module(two, endpoint_client)(x.clone())
    assert (one.calls, two.calls) == (1, 0)
    assert torch.equal(first, second) and torch.equal(first, one(x)) and not second.requires_grad
    second.zero_()  # private
    assert torch.equal(cached_module(two, endpoint_client)(x), first) and two.calls == 0


def test_whatever_changes_the_output_is_in_the_key(local):
    x = torch.randn(3, 8)
    cached_module(Encoder().eval(), local)(x)
    other_weights = Encoder(seed=1).eval()
    other_buffer = Encoder().eval()
    other_buffer.scale += 1
    for module, args, kwargs in [
        (other_weights, (x,), {}),
        (other_buffer, (x,), {}),
        (Encoder().eval(), (x[:2],), {}),
        (Encoder().eval(), (x + 1,), {}),
        (Encoder().eval(), (x,), {"shift": 1.0}),
    ]:
        assert torch.equal(cached_module(module, local)(*args, **kwargs), module(*args, **kwargs))
        assert module.calls == 2
    named = Encoder(seed=1).eval()
    for _ in range(2):
        cached_module(named, local, fingerprint="encoder at revision 3")(x)
    assert named.calls == 1


def test_outputs_of_one_module_that_are_taken_otherwise_are_others(local):
    class Wrapped(Encoder):
        def forward(self, x):
            return {"first": super().forward(x), "second": super().forward(x) + 1}

    module, x = Wrapped().eval(), torch.randn(3, 8)
    taken = [cached_module(module, local, output=output)(x) for output in (lambda r: r["first"], lambda r: r["second"])]
    assert not torch.equal(*taken)
    assert torch.equal(taken[1], module(x)["second"])
    name = "second"
    with pytest.raises(ValueError, match="version="):
        cached_module(module, local, output=lambda r: r[name])
    assert torch.equal(cached_module(module, local, output=lambda r: r[name], version=name)(x), taken[1])


def test_autocast_is_part_of_the_key(local):
    module, x = Encoder().eval(), torch.randn(3, 8)
    cached = cached_module(module, local)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert cached(x).dtype == module(x).dtype
    assert cached(x).dtype == torch.float32 and torch.equal(cached(x), module(x))


@pytest.mark.parametrize("options", [{"activation": "gelu"}, {"norm_first": True}, {"nhead": 4}])
def test_what_a_module_does_beside_its_weights_is_in_its_fingerprint(options):
    def layer(**options):
        torch.manual_seed(0)
        return torch.nn.TransformerEncoderLayer(**({"d_model": 8, "nhead": 2, "dim_feedforward": 16} | options)).eval()

    assert module_fingerprint(layer()) == module_fingerprint(layer())
    assert module_fingerprint(layer()) != module_fingerprint(layer(**options))


def test_adapters_that_are_switched_share_nothing(local):
    class Adapted(Encoder):
        def __init__(self):
            super().__init__()
            self._active_adapter = ["a"]
            self._disable_adapters = False

        def forward(self, x):
            return super().forward(x) + (0 if self._disable_adapters else ord(self._active_adapter[0]))

    module, x = Adapted().eval(), torch.randn(3, 8)
    cached = cached_module(module, local)
    for active, disabled in (("a", False), ("b", False), ("a", True)):
        module._active_adapter, module._disable_adapters = [active], disabled
        assert torch.equal(cached(x), module(x))
    calls = module.calls
    cached(x)
    assert module.calls == calls


def test_a_part_of_the_output_is_kept(local):
    class Wrapped(Encoder):
        def forward(self, x):
            return object(), super().forward(x)

    module = Wrapped().eval()
    x = torch.randn(2, 8, dtype=torch.float32)
    with pytest.raises(TypeError, match="cannot cache"):
        cached_module(module, local)(x)
    cached = cached_module(module, local, output=lambda result: {"embedding": result[1].bfloat16(), "n": [1]})
    first, second = cached(x), cached(x)
    assert module.calls == 2
    assert second["n"] == [1] and second["embedding"].dtype == torch.bfloat16
    assert torch.equal(first["embedding"], second["embedding"])


def test_training_is_refused(local):
    module = Encoder()
    cached = cached_module(module, local)
    with pytest.raises(ValueError, match="training"):
        cached(torch.randn(1, 8))
    module.eval()
    assert cached(torch.randn(1, 8)).shape == (1, 4)


def test_a_fingerprint_is_the_same_in_every_process():
    program = "import test_torch as t; print(t.module_fingerprint(t.Encoder()))"
    printed = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {program}"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert printed.strip() == module_fingerprint(Encoder())
    changed = Encoder()
    with torch.no_grad():
        changed.layer.weight[3, 7] += 1e-6
    assert module_fingerprint(changed) != module_fingerprint(Encoder())
