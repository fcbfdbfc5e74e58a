import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from farfield.apps.genomics.checkpoint import save
from farfield.apps.genomics.hyenadna import HyenaDNA, HyenaDNAConfig
from farfield.apps.training.errors import UserError
from tests.apps.genomics.foreign_checkpoints import (
    PUBLISHED,
    STANDALONE,
    TRAINING,
    bare_state_dict,
    check_logits,
    hf_folder,
    hf_without_head_and_positions,
    lightning_file,
    original_folder,
)
from tests.apps.genomics.golden_models import parameters_of
from tests.golden import golden


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
