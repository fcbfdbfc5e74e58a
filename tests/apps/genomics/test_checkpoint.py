import collections
import contextlib
import datetime
import functools
import json
import os
import pathlib
import pickle
import struct
import subprocess
import types

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from farfield.apps.genomics.checkpoint import save
from farfield.apps.genomics.hyenadna import HyenaDNA, HyenaDNAConfig
from farfield.apps.genomics.weights_file import plain, read_weights
from farfield.apps.training.errors import UserError
from tests.apps.genomics.golden_models import parameters_of, relative
from tests.golden import golden

TABLE = "backbone.embeddings.word_embeddings.weight"
STANDALONE = "hd_d32_L128_o2"


def original_config(facts):
    """The keys of an original config.json, those included that have no meaning here."""
    c = facts["config"]
    outer = {k: c[k] for k in ("d_model", "n_layer", "d_inner", "vocab_size", "pad_vocab_size_multiple")}
    more = {"resid_dropout": 0.0, "embed_dropout": 0.1, "fused_dropout_add_ln": True, "return_hidden_state": True}
    return outer | more | {"residual_in_fp32": True, "checkpoint_mixer": True, "layer": c["layer"]}


def hf_config(facts):
    """The keys of a Hugging Face config.json."""
    c = facts["config"]
    own = {k: c[k] for k in ("d_model", "n_layer", "d_inner", "vocab_size", "pad_vocab_size_multiple")}
    layer = {k: c["layer"][k] for k in ("filter_order", "emb_dim", "short_filter_order", "num_inner_mlps")}
    renamed = {"max_seq_len": c["layer"]["l_max"], "hyena_order": c["layer"]["order"], "activation_freq": 10}
    return own | layer | renamed | {"model_type": "hyenadna", "hyena_dropout": 0.0, "architectures": ["X"]}


def wrapped(state, on):
    """Names as gradient checkpointing of the mixer, the MLP or both leaves them."""
    for part in on:
        state = {k.replace(f".{part}.", f".{part}.layer."): v for k, v in state.items()}
    return state


def lightning(state, **more):
    """What Lightning writes: prefixed weights beside everything else."""
    others = {"decoder.weight": torch.ones(3), "train_torchmetrics.num-tokens.count": torch.zeros(())}
    loops = {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 3}}}}
    return {
        "epoch": 3,
        "global_step": 10_009,
        "pytorch-lightning_version": "1.8.6",
        "state_dict": {f"model.{k}": v for k, v in state.items()} | others,
        "loops": loops,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 6e-4}]}],
    } | more


def with_head(state):
    return state if "lm_head.weight" in state else state | {"lm_head.weight": state[TABLE]}


def lightning_file(folder, state, facts):
    torch.save(lightning(with_head(state)), folder / "last.ckpt")
    return folder / "last.ckpt"


def lightning_hyper_parameters(folder, state, facts):
    hyper = {"model": original_config(facts), "train": {"seed": 2222}}
    torch.save(lightning(wrapped(with_head(state), ["mixer"]), hyper_parameters=hyper), folder / "last.ckpt")
    return folder


def original_folder(folder, state, facts):
    (folder / "config.json").write_text(json.dumps(original_config(facts)))
    torch.save(lightning(wrapped(with_head(state), ["mixer", "mlp"])), folder / "weights.ckpt")
    return folder


def hf_folder(folder, state, facts):
    (folder / "config.json").write_text(json.dumps(hf_config(facts)))
    kept = {f"hyena.{k}": v for k, v in state.items() if not k.endswith(("3.freq", "5.freq")) and k != "lm_head.weight"}
    save_file(kept | {"lm_head.weight": state[TABLE].clone()}, folder / "model.safetensors")
    return folder


def hf_without_head_and_positions(folder, state, facts):
    hf_folder(folder, state, facts)
    kept = load_file(folder / "model.safetensors")
    dropped = [k for k in kept if ".pos_emb." in k or k == "lm_head.weight"]
    freq = {k.replace("1.freq", "5.freq"): v for k, v in kept.items() if k.endswith("1.freq")}
    kept = {k: v for k, v in kept.items() if k not in dropped and not k.endswith("1.freq")} | freq
    save_file(kept, folder / "model.safetensors")
    return folder / "model.safetensors"


def bare_state_dict(folder, state, facts):
    torch.save(state, folder / "standalone.pt")
    return folder / "standalone.pt"


TRAINING = [lightning_file, lightning_hyper_parameters]
PUBLISHED = [original_folder, hf_folder, hf_without_head_and_positions, bare_state_dict]


def check_logits(model, tensors, bound=5e-4):
    logits = model(tensors["input_ids"])
    assert relative(logits, tensors["logits_f64"]) < bound


@pytest.mark.parametrize("build", PUBLISHED)
def test_published_format_gives_the_official_logits(build, tmp_path):
    tensors, facts = golden("hyenadna", STANDALONE)
    model = HyenaDNA.from_checkpoint(build(tmp_path, parameters_of(tensors), facts))
    check_logits(model, tensors)
    assert not model.training
    assert (model.config.shift, model.config.l_max, model.config.d_inner) == (0.05, 130, 128)


@pytest.mark.parametrize("build", TRAINING)
@pytest.mark.parametrize("name", ["main_lm_d32_L128_o2_shift0", "main_lm_d32_L128_o3_shift0"])
def test_checkpoint_of_the_training_repository_gives_its_logits(name, build, tmp_path):
    tensors, facts = golden("hyenadna", name)
    model = HyenaDNA.from_checkpoint(build(tmp_path, parameters_of(tensors), facts))
    check_logits(model, tensors)
    assert (model.config.shift, model.config.filter_layout) == (0.0, "(d o)")


@pytest.mark.parametrize("build", [original_folder, hf_folder])
def test_stored_positions_are_used(build, tmp_path):
    tensors, facts = golden("hyenadna", "hd_d32_short_L60_of_l_max130_zpert")
    model = HyenaDNA.from_checkpoint(build(tmp_path, parameters_of(tensors), facts))
    check_logits(model, tensors)
    check_logits(HyenaDNA.from_checkpoint(save(model, tmp_path / "own")), tensors)


def test_classifier_keeps_its_head(tmp_path):
    tensors, facts = golden("hyenadna", "hd_d32_L128_head3")
    model = HyenaDNA.from_checkpoint(bare_state_dict(tmp_path, parameters_of(tensors), facts))
    assert model.config.n_classes == 3
    check_logits(model, tensors)


def test_float64_is_kept_and_exact(tmp_path):
    tensors, _ = golden("hyenadna", STANDALONE)
    torch.save({k: v.double() for k, v in parameters_of(tensors).items()}, tmp_path / "x.pt")
    model = HyenaDNA.from_checkpoint(tmp_path / "x.pt")
    assert model(tensors["input_ids"]).dtype == torch.float64
    check_logits(model, tensors, bound=1e-9)


def test_positions_rounded_to_16_bits_are_made_anew(tmp_path):
    tensors, _ = golden("hyenadna", STANDALONE)
    torch.save({k: v.bfloat16() for k, v in parameters_of(tensors).items()}, tmp_path / "x.pt")
    model = HyenaDNA.from_checkpoint(tmp_path / "x.pt")
    assert not any("pos_emb" in k for k in model.state_dict())


def test_own_format_gives_back_the_model(tmp_path):
    model = HyenaDNA(
        HyenaDNAConfig(d_model=16, order=3, filter_layout="(d o)", n_classes=2, pooling="last", shift=0.01)
    )
    ids = torch.randint(7, 11, (2, 50))
    file = save(model, tmp_path / "new" / "folder")
    back = HyenaDNA.from_checkpoint(tmp_path / "new" / "folder")
    assert back.config == model.config
    assert torch.equal(back(ids), model.eval()(ids))
    assert json.loads((file.parent / "config.json").read_text())["model"]["shift"] == 0.01
    alone = file.rename(tmp_path / "alone.safetensors")
    assert torch.equal(HyenaDNA.from_checkpoint(alone)(ids), model(ids))


def test_a_new_head_is_drawn_where_asked(tmp_path):
    model = HyenaDNA(HyenaDNAConfig(d_model=16))
    save(model, tmp_path)
    classifier = HyenaDNA.from_checkpoint(tmp_path, n_classes=5, pooling="last")
    assert classifier(torch.full((1, 9), 7)).shape == (1, 5)
    assert torch.equal(classifier.backbone.table, model.backbone.table)


def test_shift_can_be_forced(tmp_path):
    tensors, facts = golden("hyenadna", STANDALONE)
    path = lightning_file(tmp_path, parameters_of(tensors), facts)
    check_logits(HyenaDNA.from_checkpoint(path, shift=0.05), tensors)


class Foreign:
    """A class that the reader of the file does not have."""

    def __init__(self):
        self.value, self.nested = 1, [OmegaConf.create({"a": [1, {"b": 2}]})]

    def __setstate__(self, state):
        raise AssertionError("code of a foreign class ran")


def foreign_objects():
    counts = collections.defaultdict(list, {"a": [1]})
    return {
        "callbacks": {"ModelCheckpoint": {"best": pathlib.Path("x.ckpt"), "score": np.float64(1.5), "d": counts}},
        "foreign": Foreign(),
        "partial": functools.partial(max, 1),
        "space": types.SimpleNamespace(x=1),
        "time": datetime.timedelta(seconds=3),
        "ordered": collections.OrderedDict(a=1),
        "array": np.arange(3),
    }


def test_foreign_objects_are_inert_and_their_data_is_read(tmp_path):
    tensors, facts = golden("hyenadna", "main_lm_d32_L128_o2_shift0")
    config = original_config(facts)
    config["layer"] = config["layer"] | {"shift": 0.03, "l_max": 130}
    config["d_inner"] = "${eval:4 * ${.d_model}}"
    hyper = OmegaConf.create({"model": config, "trainer": {"devices": "${oc.env:X,1}"}})
    saved = lightning(with_head(parameters_of(tensors)), hyper_parameters=hyper, **foreign_objects())
    torch.save(saved, tmp_path / "x.ckpt")
    model = HyenaDNA.from_checkpoint(tmp_path / "x.ckpt")
    assert model.config.shift == 0.03
    check_logits(HyenaDNA.from_checkpoint(tmp_path / "x.ckpt", shift=0.0), tensors)


class Payload:
    """Runs a call when it is unpickled by a reader that executes what it reads."""

    def __init__(self, call, *args):
        self.call = (call, args)

    def __reduce__(self):
        return self.call


ATTACKS = {
    "os.system": lambda path: Payload(os.system, f"touch {path}"),
    "subprocess": lambda path: Payload(subprocess.check_call, ["touch", str(path)]),
    "exec": lambda path: Payload(exec, f"open({str(path)!r}, 'w')"),
    "eval": lambda path: Payload(eval, f"open({str(path)!r}, 'w')"),
    "open": lambda path: Payload(open, str(path), "w"),
    "write_text": lambda path: Payload(pathlib.Path.touch, path),
    "getattr": lambda path: Payload(getattr(pathlib.Path(path), "touch")),  # noqa: B009
    "partial": lambda path: Payload(functools.partial(pathlib.Path.touch, path)),
    "torch.save": lambda path: Payload(torch.save, {}, str(path)),
}


@pytest.mark.parametrize("where", ["hyper_parameters", "state_dict", "callbacks"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_code_in_a_checkpoint_never_runs(attack, where, tmp_path):
    target = tmp_path / "written-by-the-attack"
    saved = lightning(HyenaDNA(HyenaDNAConfig(d_model=8, n_layer=1, l_max=20)).state_dict())
    payload = ATTACKS[attack](target)
    if where == "state_dict":
        saved["state_dict"]["model.backbone.evil"] = payload
    else:
        saved[where] = payload
    torch.save(saved, tmp_path / "evil.ckpt")
    with contextlib.suppress(UserError):
        HyenaDNA.from_checkpoint(tmp_path / "evil.ckpt", l_max=20)
    assert not target.exists()
    # The file does attack a reader that executes what it reads.
    with contextlib.suppress(AttributeError, TypeError):
        torch.load(tmp_path / "evil.ckpt", weights_only=False)
    assert target.exists()


def test_safe_globals_are_as_before(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    torch.save(lightning({}, **foreign_objects()), tmp_path / "x.ckpt")
    read_weights(tmp_path / "x.ckpt")
    assert set(torch.serialization.get_safe_globals()) == before


def test_plain_ends_on_endless_data():
    loop = {}
    loop["self"] = loop
    assert plain({"a": (1, 2.5, "x", True, object()), 3: 4}) == {"a": [1, 2.5, "x", True, None]}
    plain(loop)


def damaged(file, kind):
    data = file.read_bytes()
    if kind == "empty":
        data = b""
    elif kind == "cut":
        data = data[: len(data) // 2]
    elif kind == "text":
        data = b"<html>404 not found</html>"
    elif kind == "lfs":
        data = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    elif kind == "header":
        data = struct.pack("<Q", 2**60) + data[8:]
    elif kind == "pickle":
        at = data.index(b"backbone")
        data = data[:at] + b"\xff" * 40 + data[at + 40 :]
    file.write_bytes(data)


@pytest.mark.parametrize("kind", ["empty", "cut", "text", "lfs", "header", "pickle"])
@pytest.mark.parametrize("build", [original_folder, hf_folder])
def test_damaged_file_is_named(build, kind, tmp_path):
    tensors, facts = golden("hyenadna", STANDALONE)
    build(tmp_path, parameters_of(tensors), facts)
    file = next(p for p in tmp_path.iterdir() if p.name in ("weights.ckpt", "model.safetensors"))
    damaged(file, kind)
    with pytest.raises(UserError, match=file.name):
        HyenaDNA.from_checkpoint(tmp_path)


def test_file_cut_anywhere_is_a_user_error(tmp_path):
    state = HyenaDNA(HyenaDNAConfig(d_model=8, n_layer=1)).state_dict()
    torch.save(lightning(state), tmp_path / "x.ckpt")
    save_file({k: v.clone() for k, v in state.items()}, tmp_path / "x.safetensors")
    for name in ("x.ckpt", "x.safetensors"):
        data = (tmp_path / name).read_bytes()
        for n in range(0, len(data), len(data) // 23):
            (tmp_path / "cut").write_bytes(data[:n])
            with pytest.raises(UserError, match="cut"):
                HyenaDNA.from_checkpoint(tmp_path / "cut", l_max=1026)


def change(state, **changes):
    out = dict(state)
    for name, value in changes.items():
        key = next(k for k in out if k.endswith(name.replace("_DOT_", ".")))
        if value is None:
            del out[key]
        else:
            out[key] = value
    return out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"1_DOT_mixer_DOT_in_proj_DOT_bias": None}, r"lacks backbone\.layers\.1\.mixer\.in_proj\.bias"),
        ({"word_embeddings_DOT_weight": None}, r"word_embeddings\.weight is missing"),
        ({"1_DOT_mlp_DOT_fc1_DOT_weight": torch.ones(3, 3)}, r"fc1\.weight has shape \(3, 3\), \(128, 32\)"),
        ({"0_DOT_mixer_DOT_in_proj_DOT_weight": torch.ones(3)}, r"in_proj\.weight has shape \(3,\), 2 dimensions"),
        ({"1_DOT_mixer_DOT_filter_fn_DOT_pos_emb_DOT_z": torch.ones(1, 9, 5)}, r"pos_emb\.z has shape \(1, 9, 5\)"),
        ({"0_DOT_mixer_DOT_filter_fn_DOT_implicit_filter_DOT_3_DOT_freq": torch.ones(1, 64)}, r"freq.*differ"),
    ],
)
def test_wrong_weights_are_named(changes, message, tmp_path):
    tensors, facts = golden("hyenadna", STANDALONE)
    state = change(parameters_of(tensors), **changes)
    with pytest.raises(UserError, match=message):
        HyenaDNA.from_checkpoint(bare_state_dict(tmp_path, state, facts))


def test_unknown_key_is_named(tmp_path):
    tensors, facts = golden("hyenadna", STANDALONE)
    state = parameters_of(tensors) | {"backbone.layers.0.attention.weight": torch.ones(2)}
    with pytest.raises(UserError, match=r"unknown backbone\.layers\.0\.attention\.weight"):
        HyenaDNA.from_checkpoint(bare_state_dict(tmp_path, state, facts))


def test_untied_output_layer_is_refused(tmp_path):
    tensors, facts = golden("hyenadna", STANDALONE)
    state = parameters_of(tensors) | {"lm_head.weight": torch.zeros(16, 32)}
    with pytest.raises(UserError, match=r"lm_head\.weight differs"):
        HyenaDNA.from_checkpoint(bare_state_dict(tmp_path, state, facts))


def test_config_of_another_model_is_refused(tmp_path):
    tensors, facts = golden("hyenadna", STANDALONE)
    path = original_folder(tmp_path, parameters_of(tensors), facts)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"d_model": 256}))
    with pytest.raises(UserError, match=r"d_model=256 was given, its weights have d_model=32"):
        HyenaDNA.from_checkpoint(path)


def test_window_that_nothing_tells_is_asked_for(tmp_path):
    tensors, facts = golden("hyenadna", STANDALONE)
    path = hf_without_head_and_positions(tmp_path, parameters_of(tensors), facts)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="l_max"):
        HyenaDNA.from_checkpoint(path)
    check_logits(HyenaDNA.from_checkpoint(path, l_max=130), tensors)


def test_what_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        HyenaDNA.from_checkpoint(tmp_path / "absent")
    with pytest.raises(UserError, match="holds no checkpoint"):
        HyenaDNA.from_checkpoint(tmp_path)
    for name in "ab":
        torch.save({}, tmp_path / f"{name}.ckpt")
    with pytest.raises(UserError, match=r"2 \.ckpt files"):
        HyenaDNA.from_checkpoint(tmp_path)
    with pytest.raises(UserError, match="is missing"):
        HyenaDNA.from_checkpoint(tmp_path / "a.ckpt")
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds a list"):
        HyenaDNA.from_checkpoint(tmp_path / "list.pt")
    (tmp_path / "p.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="neither"):
        HyenaDNA.from_checkpoint(tmp_path / "p.pkl")


def test_shape_of_the_weights_cannot_be_changed(tmp_path):
    save(HyenaDNA(HyenaDNAConfig(d_model=8)), tmp_path)
    with pytest.raises(UserError, match="d_model cannot be changed"):
        HyenaDNA.from_checkpoint(tmp_path, d_model=9)


def test_newer_own_format_is_refused(tmp_path):
    model = HyenaDNA(HyenaDNAConfig(d_model=8))
    config = {"format": "farfield.hyenadna/2", "model": {}}
    save_file({k: v.clone() for k, v in model.state_dict().items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="update farfield"):
        HyenaDNA.from_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["[1]", "3", "{", '{"format": "farfield.hyenadna/1"}'])
def test_damaged_metadata_is_named(text, tmp_path):
    state = HyenaDNA(HyenaDNAConfig(d_model=8)).state_dict()
    save_file({k: v.clone() for k, v in state.items()}, tmp_path / "x.safetensors", {"farfield": text})
    with pytest.raises(UserError, match=r"x\.safetensors"):
        HyenaDNA.from_checkpoint(tmp_path / "x.safetensors")
