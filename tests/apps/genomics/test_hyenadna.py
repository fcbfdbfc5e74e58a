import dataclasses
import math
from importlib.resources import files

import pytest
import torch
import yaml
from torch.nn import functional as F

from farfield.apps.genomics.hyena_filter import HyenaFilter, positions
from farfield.apps.genomics.hyenadna import HyenaDNA, HyenaDNAConfig, HyenaOperator, pool
from farfield.apps.training.errors import UserError
from farfield.core_ops import fftconv, short_conv
from tests.apps.genomics.golden_models import fill, model_of, parameters_of, relative
from tests.golden import golden, names

MODELS = names("hyenadna", "hd_") + names("hyenadna", "main_lm_")
OPERATORS = names("hyenadna", "op_")
BOUND = {torch.float64: 1e-9, torch.float32: 5e-4}
RECIPES = {
    "tiny-1k": 436_096,
    "tiny-1k-d256": 1_641_088,
    "tiny-16k-d128": 436_096,
    "small-32k": 3_277_568,
    "medium-160k": 6_550_528,
    "medium-450k": 6_550_528,
    "large-1m": 6_550_528,
}


def small(**changes):
    torch.manual_seed(7)
    config = {"d_model": 16, "n_layer": 2, "l_max": 70, "filter_order": 8, "w": 3.0} | changes
    model = HyenaDNA(HyenaDNAConfig(**config)).eval()
    # The published initial weights are so small that every token would look alike.
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return model


def dna(batch, length, seed=0):
    return torch.randint(7, 12, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("name", MODELS)
def test_model_computes_what_the_official_code_computes(name, dtype):
    tensors, facts = golden("hyenadna", name)
    model = model_of(tensors, facts).to(dtype)
    ids = tensors["input_ids"]
    hidden, logits = model.hidden_states(ids), model(ids)
    if "labels" in tensors:
        loss = F.cross_entropy(logits, tensors["labels"])
    else:
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    if "pos_idx" in tensors:
        hidden, logits = hidden[:, tensors["pos_idx"]], logits[:, tensors["pos_idx"]]
    assert hidden.dtype == dtype
    assert relative(hidden, tensors["hidden_f64"]) < BOUND[dtype]
    assert relative(logits, tensors["logits_f64"]) < BOUND[dtype]
    assert relative(loss[None], tensors["loss_f64"]) < BOUND[dtype]
    grads = [k.removeprefix("grad_f64.") for k in tensors if k.startswith("grad_f64.")]
    assert len(grads) >= 5
    for g in grads:
        grad = model.get_parameter(g).grad
        assert grad is not None
        assert relative(grad, tensors[f"grad_f64.{g}"]) < BOUND[dtype], g


@pytest.mark.parametrize("name", MODELS)
def test_first_block_computes_what_the_official_code_computes(name):
    tensors, facts = golden("hyenadna", name)
    model = model_of(tensors, facts)
    ids = tensors["input_ids"]
    residual = model.backbone.layers[0](model.backbone.embed(ids), model.positions(ids.shape[1]))
    at = tensors.get("pos_idx", torch.arange(ids.shape[1]))
    assert relative(residual[:, at], tensors["block0_out"] + tensors["block0_residual"]) < BOUND[torch.float32]


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("name", OPERATORS)
def test_operator_computes_what_the_official_code_computes(name, dtype):
    tensors, facts = golden("hyenadna", name)
    config = HyenaDNAConfig(
        d_model=facts["d_model"],
        order=facts["order"],
        l_max=facts["l_max"],
        shift=facts["modulation_shift"],
        filter_layout=facts["filter_channel_layout"],
    )
    op = HyenaOperator(config)
    fill(op, parameters_of(tensors))
    op.to(dtype)
    where = positions(facts["l_max"], 5, facts["L"])
    u = tensors["u"].to(dtype).requires_grad_()
    y = op(u, where)
    (y * tensors["cotangent"].to(dtype)).sum().backward()
    f = op.filter_fn
    last = f.implicit_filter[-1]
    k = f(where)
    by_channel = k if facts["filter_channel_layout"] == "(o d)" else k.transpose(0, 1)
    short = short_conv(op.in_proj(u).transpose(1, 2), op.short_filter.weight[:, 0], op.short_filter.bias)
    assert relative(f.features(where.z) @ last.weight.T, tensors["filter_mlp_out_f64"]) < BOUND[dtype]
    assert relative(by_channel.flatten(0, 1).T, tensors["filter_k_f64"]) < BOUND[dtype]
    assert relative(short, tensors["short_conv_out_f64"]) < BOUND[dtype]
    assert relative(y, tensors["y_f64"]) < BOUND[dtype]
    assert relative(u.grad, tensors["grad_u_f64"]) < BOUND[dtype]
    for g in (k for k in tensors if k.startswith("grad_f64.")):
        assert relative(op.get_parameter(g.removeprefix("grad_f64.")).grad, tensors[g]) < BOUND[dtype], g


@pytest.mark.parametrize("dtype", BOUND)
def test_fftconv_computes_what_the_official_code_computes(dtype):
    tensors, facts = golden("hyenadna", "fftconv")
    for case in (str(c["case"]) for c in facts["cases"]):
        u, k, skip = (tensors[f"{case}.{x}"].to(dtype).requires_grad_() for x in "ukD")
        y = fftconv(u, k, skip=skip)
        y.backward(tensors[f"{case}.cotangent"].to(dtype))
        bound = {torch.float64: 1e-12, torch.float32: 2e-6}[dtype]
        for came, wanted in ((y, "y"), (u.grad, "du"), (k.grad, "dk"), (skip.grad, "dD")):
            assert relative(came, tensors[f"{case}.{wanted}_f64"]) < bound, (case, wanted)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_has_the_published_number_of_parameters(recipe):
    text = (files("farfield.recipes.genomics") / "model" / f"{recipe}.yaml").read_text()
    config = HyenaDNAConfig(**yaml.safe_load(text))
    with torch.device("meta"):
        model = HyenaDNA(config)
    assert sum(p.numel() for p in model.parameters()) == config.parameters == RECIPES[recipe]
    assert f"{RECIPES[recipe]:,} parameters" in text.splitlines()[0]


def test_config_counts_parameters_of_any_shape():
    config = HyenaDNAConfig(d_model=6, order=3, d_inner=5, emb_dim=7, num_inner_mlps=1, filter_order=4, vocab_size=30)
    assert sum(p.numel() for p in HyenaDNA(config).parameters()) == config.parameters


def test_every_recipe_of_a_model_is_published():
    names = {p.name for p in (files("farfield.recipes.genomics") / "model").iterdir() if p.name.endswith(".yaml")}
    assert names == {f"{r}.yaml" for r in RECIPES}


@pytest.mark.parametrize(("order", "length"), [(2, 37), (3, 41), (2, 1)])
def test_output_ignores_the_future(order, length):
    model = small(order=order).double()
    ids = dna(2, length)
    logits = model(ids)
    for t in (0, length // 2, length - 1):
        changed = ids.clone()
        changed[:, t:] = (changed[:, t:] - 6) % 5 + 7
        now = model(changed)
        assert torch.allclose(now[:, :t], logits[:, :t], atol=1e-12, rtol=0)
        assert (now[:, t] - logits[:, t]).abs().max() > 1e-3


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_masked_padding_changes_no_other_token(side, order):
    model = small(order=order).double()
    lengths = [23, 31, 7]
    sequences = [dna(1, n, seed=n) for n in lengths]
    before = {"left": [8, 0, 24], "right": [0, 0, 0], "both": [3, 0, 10]}[side]
    ids = torch.full((3, 31), 4)
    mask = torch.zeros(3, 31, dtype=torch.bool)
    for i, (s, b) in enumerate(zip(sequences, before, strict=True)):
        ids[i, b : b + s.shape[1]] = s
        mask[i, b : b + s.shape[1]] = True
    padded = model(ids, mask)
    for i, s in enumerate(sequences):
        assert torch.allclose(padded[i][mask[i]], model(s)[0], atol=1e-12)


@pytest.mark.parametrize("pooling", ["mean", "sum", "first", "last"])
def test_head_sees_real_tokens_alone(pooling):
    model = small(n_classes=3, pooling=pooling).double()
    s = dna(1, 19)
    pad = torch.full((1, 6), 4)
    mask = torch.arange(25)[None]
    left, right = model(torch.cat([pad, s], 1), mask >= 6), model(torch.cat([s, pad], 1), mask < 19)
    alone = model(s)
    assert alone.shape == (1, 3)
    assert torch.allclose(left, alone, atol=1e-12)
    assert torch.allclose(right, alone, atol=1e-12)


def test_pooling_is_what_its_name_says():
    hidden = torch.randn(2, 4, 3)
    mask = torch.tensor([[False, True, True, False], [True, True, True, True]])
    assert torch.allclose(pool(hidden, "mean", mask)[0], hidden[0, 1:3].mean(0))
    assert torch.allclose(pool(hidden, "sum", mask)[1], hidden[1].sum(0))
    assert torch.equal(pool(hidden, "first", mask), torch.stack([hidden[0, 1], hidden[1, 0]]))
    assert torch.equal(pool(hidden, "last", mask), torch.stack([hidden[0, 2], hidden[1, 3]]))
    assert torch.allclose(pool(hidden, "mean"), hidden.mean(1))


def test_short_sequence_uses_the_first_samples_of_the_grid():
    whole, part = positions(1026, 5, 1026), positions(1026, 5, 60)
    assert torch.equal(whole.z[:60], part.z)
    assert torch.equal(whole.t[:60], part.t)
    assert not torch.allclose(part.t, positions(60, 5, 60).t)


def test_positions_follow_the_formula():
    n, bands = 50, 3
    z, t = positions(n, 2 * bands + 1, n)
    j = torch.arange(n, dtype=torch.float64)
    f = torch.linspace(1e-4, bands - 1, bands, dtype=torch.float64)
    angle = f * (2 * math.pi * j / n)[:, None]
    expected = torch.cat([(j / (n - 1))[:, None], torch.cos(angle), -torch.sin(angle)], 1)
    assert torch.allclose(z.double(), expected, atol=3e-6)
    assert torch.equal(z[:, 0], t)


def test_sequence_beyond_the_window_is_refused_until_regrid():
    model = small()
    with pytest.raises(UserError, match=r"71 tokens.*l_max=70.*regrid\(71\)"):
        model(dna(1, 71))
    model.regrid(139)
    assert model.config.l_max == 139
    assert model(dna(1, 139)).shape == (1, 139, 16)


def test_regrid_stretches_the_filters():
    model = small(filter_order=4, w=1.0)
    f = model.backbone.layers[0].mixer.filter_fn
    before = f(model.positions(70)).detach()
    model.regrid(139)
    # 70 samples from 0 to 1 are every other one of 139; only the sines' period (l_max, not l_max - 1) differs.
    assert torch.allclose(f(model.positions(139))[..., ::2], before, atol=0.05 * float(before.abs().max()))


def test_regrid_refuses_positions_of_the_checkpoint():
    tensors, facts = golden("hyenadna", "hd_d32_short_L60_of_l_max130_zpert")
    model = model_of(tensors, facts)
    with pytest.raises(UserError, match="positions of its own"):
        model.regrid(260)


@pytest.mark.parametrize(
    "changes",
    [
        {"emb_dim": 4},
        {"order": 1},
        {"d_model": 0},
        {"pooling": "max"},
        {"l_max": 1.5},
        {"w": "x"},
        {"embed_dropout": 1},
    ],
)
def test_impossible_shape_is_refused(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        HyenaDNAConfig(**changes)


@pytest.mark.parametrize(
    "ids", [torch.zeros(5, dtype=torch.long), torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 5)]
)
def test_ids_of_another_kind_are_refused(ids):
    with pytest.raises(UserError, match="ids are"):
        small()(ids)


def test_mask_of_another_shape_is_refused():
    with pytest.raises(UserError, match="mask is"):
        small()(dna(2, 5), torch.ones(2, 4, dtype=torch.bool))


def test_positions_are_no_part_of_the_weights():
    assert not any("pos_emb" in k for k in small().state_dict())


def test_frequency_is_one_parameter_of_a_layer():
    model = small()
    shared = [p for n, p in model.named_parameters(remove_duplicate=False) if n.endswith("freq")]
    assert len(shared) == 3 * model.config.n_layer
    assert len({id(p) for p in shared}) == model.config.n_layer


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_filters_stay_fp32_in_a_16_bit_model(dtype):
    model = small(l_max=4098).to(dtype)
    f = model.backbone.layers[0].mixer.filter_fn
    k = f(model.positions(4098))
    rounded = small(l_max=4098).to(dtype).float().backbone.layers[0].mixer.filter_fn
    assert k.dtype == torch.float32
    assert torch.equal(k, rounded(model.positions(4098)))
    assert model(dna(1, 33)).dtype == dtype


def test_stored_positions_stay_fp32_in_a_16_bit_model():
    tensors, facts = golden("hyenadna", "hd_d32_short_L60_of_l_max130_zpert")
    model = model_of(tensors, facts).bfloat16()
    stored = model.backbone.layers[1].mixer.filter_fn.pos_emb.z
    assert torch.equal(stored, tensors["param.backbone.layers.1.mixer.filter_fn.pos_emb.z"])


def test_filters_stay_fp32_under_autocast():
    model = small()
    f = model.backbone.layers[0].mixer.filter_fn
    k = f(model.positions(70))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(f(model.positions(70)), k)
        logits = model(dna(1, 33))
    assert relative(logits, model(dna(1, 33))) < 0.05


@pytest.mark.parametrize(("keep", "dtype"), [(True, torch.float32), (False, torch.bfloat16)])
def test_residual_stream_is_fp32_where_asked(keep, dtype):
    model = small(residual_in_fp32=keep).bfloat16()
    assert model.backbone.embed(dna(1, 9)).dtype == dtype


def test_shift_is_what_the_fading_tends_to():
    a, b = (small(shift=s).backbone.layers[0].mixer.filter_fn for s in (0.0, 0.05))
    where = positions(70, 5, 70)
    h = a.features(where.z) @ a.implicit_filter[-1].weight.T
    assert torch.allclose(b(where) - a(where), 0.05 * h.T[None], atol=1e-5)


def test_layouts_are_one_at_order_2_and_two_at_order_3():
    ids = dna(1, 33)
    for order, same in ((2, True), (3, False)):
        a, b = (small(order=order, filter_layout=layout)(ids) for layout in ("(o d)", "(d o)"))
        assert torch.equal(a, b) is same


def test_param_groups_hold_every_parameter_once():
    model = small(n_classes=2)
    groups = {g["name"]: g for g in model.param_groups(1e-3, 0.1, filter_lr=1e-4)}
    held = [id(p) for g in groups.values() for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert {n: (g["lr"], g["weight_decay"]) for n, g in groups.items()} == {
        "decay": (1e-3, 0.1),
        "no_decay": (1e-3, 0.0),
        "filter": (1e-4, 0.0),
    }
    names = {id(p): n for n, p in model.named_parameters()}
    assert all(".implicit_filter." in names[id(p)] for p in groups["filter"]["params"])
    plain = {names[id(p)] for p in groups["no_decay"]["params"]}
    assert {"backbone.ln_f.weight", "backbone.layers.0.mixer.filter_fn.bias", "head.output_transform.bias"} <= plain
    torch.optim.AdamW(model.param_groups(1e-3, 0.1)).step()


def test_new_weights_have_the_published_spread():
    model = HyenaDNA(HyenaDNAConfig(d_model=256, n_layer=4))
    block = model.backbone.layers[1]
    for weight, std in (
        (model.backbone.table, 0.02),
        (block.mixer.in_proj.weight, 0.02),
        (block.mixer.filter_fn.implicit_filter[2].weight, 0.02),
        (block.mlp.fc1.weight, 0.02),
        (block.mixer.out_proj.weight, 0.02 / math.sqrt(8)),
        (block.mlp.fc2.weight, 0.02 / math.sqrt(8)),
        (block.mixer.filter_fn.bias, 1.0),
    ):
        assert abs(float(weight.std()) / std - 1) < 0.12
    assert not block.mixer.in_proj.bias.any()
    assert not block.mixer.filter_fn.implicit_filter[0].bias.any()
    assert (block.mixer.filter_fn.implicit_filter[1].freq == 10).all()
    deltas = block.mixer.filter_fn.modulation.deltas.flatten()
    assert torch.allclose(deltas[[0, -1]], torch.tensor([-3.0701, -15.3506]), atol=1e-4)


def test_dropout_works_in_training_alone():
    model = small(resid_dropout=0.2)
    ids = dna(1, 33)
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))


def test_same_seed_gives_the_same_model():
    assert all(torch.equal(a, b) for a, b in zip(small().parameters(), small().parameters(), strict=True))


def test_config_is_frozen_and_fills_in_its_mlp():
    config = HyenaDNAConfig(d_model=24)
    assert config.d_inner == 96
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.d_model = 3
    assert HyenaDNAConfig(vocab_size=17).padded_vocab == 24


def test_filter_works_at_any_number_of_inner_layers():
    f = HyenaFilter(6, 3, num_inner_mlps=0, filter_order=5)
    assert f(positions(9, 5, 9)).shape == (2, 6, 9)
