"""HyenaDNA models and operators that hold the parameters of a golden file."""

from typing import Any

import torch
from torch import Tensor, nn

from farfield.apps.genomics.hyena_filter import HyenaFilter, positions
from farfield.apps.genomics.hyenadna import HyenaDNA, HyenaDNAConfig


def config_of(facts: dict[str, Any], **changes: Any) -> HyenaDNAConfig:
    """The config of a golden model file."""
    c = facts["config"]
    head = {"n_classes": facts["head"]["n_classes"], "pooling": "mean"} if facts["head"] else {}
    layer = {k: c["layer"][k] for k in ("l_max", "order", "emb_dim", "filter_order", "num_inner_mlps", "w")}
    outer = {k: c[k] for k in ("d_model", "n_layer", "d_inner", "vocab_size", "pad_vocab_size_multiple")}
    where = {"shift": c["modulation_shift"], "filter_layout": c["filter_channel_layout"]}
    return HyenaDNAConfig(**(outer | layer | where | head | changes))


def parameters_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state_dict of the official code that a golden file holds."""
    return {k.removeprefix("param."): v for k, v in tensors.items() if k.startswith("param.")}


def fill(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Copies an official state_dict into a module; positions are kept only where they are not the default."""
    state = {k: v for k, v in state.items() if k != "lm_head.weight"}
    for name, inner in module.named_modules():
        if isinstance(inner, HyenaFilter):
            key = f"{name}.pos_emb."
            n = state[f"{key}z"].shape[1]
            plain = positions(n, state[f"{key}z"].shape[2], n)
            for which, default in (("z", plain.z), ("t", plain.t[:, None])):
                if torch.equal(state[key + which][0], default):
                    del state[key + which]
                else:
                    setattr(inner.pos_emb, which, torch.empty_like(state[key + which]))
    module.load_state_dict(state)


def model_of(tensors: dict[str, Tensor], facts: dict[str, Any], **changes: Any) -> HyenaDNA:
    """The golden model in evaluation mode."""
    model = HyenaDNA(config_of(facts, **changes))
    fill(model, parameters_of(tensors))
    return model.eval()


def relative(a: Tensor, b: Tensor) -> float:
    """Relative L2 distance to b; b must not be zero."""
    a, b = a.detach().double(), b.double()
    assert b.norm() > 0
    return float((a - b).norm() / b.norm())
