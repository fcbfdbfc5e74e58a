"""Checkpoints of HyenaDNA as other projects write them: published folders, Lightning files, bare weights."""

import json

import torch
from safetensors.torch import load_file, save_file

from tests.apps.genomics.golden_models import relative

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
