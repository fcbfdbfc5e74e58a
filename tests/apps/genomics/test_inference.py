import subprocess
import sys

import pytest
import torch

from farfield.apps.genomics import inference
from farfield.apps.genomics.hyenadna import HyenaDNA, HyenaDNAConfig
from farfield.apps.genomics.inference import TILE, forward_long, memory_estimate
from farfield.apps.training.errors import UserError
from tests.apps.genomics.golden_models import model_of, relative
from tests.golden import ROOT, golden, names

MODELS = [n for n in names("hyenadna", "hd_") if "head" not in n] + names("hyenadna", "main_lm_")


def small(**changes):
    torch.manual_seed(3)
    model = HyenaDNA(HyenaDNAConfig(**({"d_model": 6, "l_max": 2 * TILE + 800, "filter_order": 16} | changes))).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


def dna(batch, length):
    return torch.randint(7, 12, (batch, length), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("channels", [1, 4, 100])
@pytest.mark.parametrize("shape", [{}, {"order": 3}, {"order": 3, "filter_layout": "(d o)"}, {"short_filter_order": 4}])
def test_one_pass_equals_the_plain_forward(shape, channels):
    model = small(**shape)
    ids = dna(2, TILE + 777)
    with torch.no_grad():
        assert relative(forward_long(model, ids, channels=channels), model(ids)) < 1e-5
        model.double()
        wanted = model(ids)
        came = forward_long(model, ids, channels=channels)
    assert came.dtype == torch.float64
    assert relative(came, wanted) < 1e-12


@pytest.mark.parametrize("length", [1, 2, TILE - 1, TILE, TILE + 1])
def test_any_length_goes_through(length):
    model = small().double()
    ids = dna(1, length)
    assert relative(forward_long(model, ids), model(ids).detach()) < 1e-12


@pytest.mark.parametrize("name", MODELS)
def test_one_pass_gives_the_official_logits(name):
    tensors, facts = golden("hyenadna", name)
    at = tensors.get("pos_idx", torch.arange(tensors["input_ids"].shape[1]))
    model = model_of(tensors, facts)
    assert relative(forward_long(model, tensors["input_ids"], channels=7)[:, at], tensors["logits_f64"]) < 5e-4
    assert relative(forward_long(model.double(), tensors["input_ids"])[:, at], tensors["logits_f64"]) < 1e-9


def test_wanted_is_what_comes():
    model = small().double()
    ids = dna(2, TILE + 300)
    with torch.no_grad():
        hidden, logits = model.hidden_states(ids), model(ids)
    chosen = logits[:, :-1].log_softmax(2).gather(2, ids[:, 1:, None])[..., 0]
    assert torch.allclose(forward_long(model, ids, want="hidden"), hidden, atol=1e-11)
    came = forward_long(model, ids, want="log_likelihood")
    assert came.shape == (2, TILE + 299)
    assert torch.allclose(came, chosen, atol=1e-11)
    assert forward_long(model, ids[:, :1], want="log_likelihood").shape == (2, 0)


def test_output_ignores_the_future():
    model = small().double()
    ids = dna(1, TILE + 50)
    changed = ids.clone()
    changed[:, TILE - 3 :] = 7
    a, b = forward_long(model, ids), forward_long(model, changed)
    assert torch.allclose(a[:, : TILE - 3], b[:, : TILE - 3], atol=1e-11)
    assert (a - b).abs().max() > 1e-3


def test_16_bit_model_is_computed_in_fp32():
    model = small().bfloat16()
    ids = dna(1, 300)
    came = forward_long(model, ids)
    assert came.dtype == torch.float32
    assert relative(came, model.float()(ids).detach()) < 1e-5


def test_nothing_of_the_caller_changes():
    model, threads = small().train(), torch.get_num_threads()
    before = [p.clone() for p in model.parameters()]
    y = forward_long(model, dna(1, 300))
    assert not y.requires_grad
    assert model.training
    assert torch.get_num_threads() == threads
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert torch.equal(y, forward_long(model.eval(), dna(1, 300)))
    model(dna(1, 300)).sum().backward()


def test_progress_runs_from_the_first_part_to_the_last():
    seen = []
    forward_long(small(), dna(1, 300), channels=5, progress=lambda done, all_: seen.append((done, all_)))
    assert [d for d, _ in seen] == list(range(1, len(seen) + 1))
    assert {a for _, a in seen} == {len(seen)}


def test_limit_sets_the_channels_at_a_time():
    model, ids = small(), dna(1, 2 * TILE)
    need = memory_estimate(model.config, ids.shape[1])
    for channels, parts in ((1, 6), (4, 2), (100, 1)):
        seen = []
        forward_long(model, ids, memory_limit=need.total(channels), progress=lambda done, _: seen.append(done))  # noqa: B023
        assert len(seen) == 2 * (parts + 2) + 1
    with pytest.raises(UserError, match=rf"{need.total(1) - 1:,} bytes came, {need.total(1):,} are the least"):
        forward_long(model, ids, memory_limit=need.total(1) - 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"want": "embedding"}, "want='embedding'"), ({"channels": 0}, "channels=0")],
)
def test_unknown_wish_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        forward_long(small(), dna(1, 9), **arguments)


def test_classifier_gives_hidden_states_alone():
    model = small(n_classes=2)
    assert forward_long(model, dna(1, 9), want="hidden").shape == (1, 9, 6)
    with pytest.raises(UserError, match="of a classifier"):
        forward_long(model, dna(1, 9))


def test_sequence_beyond_the_window_is_refused():
    with pytest.raises(UserError, match="regrid"):
        forward_long(small(), dna(1, 2 * TILE + 801))


MEASURE = """
import re, sys, torch
from farfield.apps.genomics.hyenadna import HyenaDNA, HyenaDNAConfig
from farfield.apps.genomics.inference import forward_long, memory_estimate
torch.set_num_threads(2)
tokens, channels = map(int, sys.argv[1:])
model = HyenaDNA(HyenaDNAConfig(d_model=128, n_layer=2, l_max=tokens + 2)).eval()
allowed = memory_estimate(model.config, tokens, want="log_likelihood").total(channels)
ids = torch.randint(7, 11, (1, tokens))
forward_long(model, ids[:, :4096])
# Not ru_maxrss: a child starts with that of the process that made it.
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = peak()
y = forward_long(model, ids, want="log_likelihood", memory_limit=allowed)
assert y.isfinite().all() and -4 < y.mean() < -2
print(before, peak(), allowed)
"""


def measured(tokens, channels):
    command = [sys.executable, "-c", MEASURE, str(tokens), str(channels)]
    env = {"PYTHONPATH": str(ROOT / ".typing"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [int(v) for v in done.stdout.split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_memory_stays_within_the_limit():
    before, peak, limit = measured(2**16, 32)
    assert peak - before < limit
    less_before, less_peak, less = measured(2**16, 4)
    assert less_peak - less_before < less < limit
    assert less_peak < peak


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_a_million_tokens_stay_within_3_gb():
    _, peak, limit = measured(2**20, 32)
    assert peak < 3e9
    assert limit < 2.6e9


def test_estimate_grows_with_what_is_asked():
    config = HyenaDNAConfig()
    one = memory_estimate(config, 1000)
    assert memory_estimate(config, 2000).total() > one.total()
    assert memory_estimate(config, 1000, batch=2).total() > one.total()
    assert memory_estimate(config, 1000, want="hidden").total() < one.total()
    assert memory_estimate(config, 1000, itemsize=8).streams == 2 * one.streams == 2 * 2 * 4 * 1000 * 128
    assert one.total(2) - one.total(1) == one.channel
    assert one.total(0) > inference.CONVOLUTION_SCRATCH
