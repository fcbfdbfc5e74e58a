"""HyenaDNA: a causal language model of DNA whose layers are gated long convolutions, and its classifier head.

Shapes: B batch, L tokens, d = d_model, V = padded vocabulary, n = order. Parameter names are those of the published
checkpoints.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from farfield.apps.genomics.hyena_filter import FilterLayout, HyenaFilter, Positions, Sin, positions
from farfield.apps.training.errors import UserError
from farfield.core_ops import fftconv, short_conv

Pooling = Literal["mean", "sum", "first", "last"]
LAYOUTS: tuple[FilterLayout, ...] = ("(o d)", "(d o)")
POOLINGS: tuple[Pooling, ...] = ("mean", "sum", "first", "last")
# Stored positions this near to the default ones are the default ones of another machine (their last bits differ).
SAME_POSITIONS = 4e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class HyenaDNAConfig:
    """The shape of a HyenaDNA; the defaults are the published tiny-1k model.

    Args:
        d_model: Channels d.
        n_layer: Blocks.
        d_inner: Width of the blocks' MLP; 4 d_model when left out.
        vocab_size: Token ids in use (the tokenizer's 12).
        pad_vocab_size_multiple: The embedding has vocab_size rows, rounded up to a multiple of this.
        order: Order n of the operator: n - 1 long convolutions, n + 1 projections.
        l_max: Samples of the filters' grid and greatest length: max_length + 2 in the published models. A shorter
            sequence uses the first samples of the same grid; see `HyenaDNA.regrid`.
        short_filter_order: Taps of the short convolution.
        filter_order: Width of the filters' network.
        emb_dim: Features of a position, odd and at least 3.
        num_inner_mlps: Hidden layers of the filters' network after its first.
        w: Frequency of its sines at the start.
        shift: What the filters' fading tends to: 0.05 in the published models, 0.0 in the public training code.
        filter_layout: Order of the filters' channels when order > 2: "(o d)" in the published inference codes,
            "(d o)" in the public training code. The two are one at order 2, which all published models have.
        layer_norm_epsilon: Epsilon of every LayerNorm.
        embed_dropout: Dropout after the embedding.
        resid_dropout: Dropout before each addition to the residual stream.
        residual_in_fp32: Keep the residual stream in fp32 when the model is in 16 bits.
        n_classes: Classes of the classifier head; None is a language model.
        pooling: What the head sees of the sequence: "mean", "sum", "first" or "last" token.
    Raises: UserError: a value that no model can have.
    """

    d_model: int = 128
    n_layer: int = 2
    d_inner: int | None = None
    vocab_size: int = 12
    pad_vocab_size_multiple: int = 8
    order: int = 2
    l_max: int = 1026
    short_filter_order: int = 3
    filter_order: int = 64
    emb_dim: int = 5
    num_inner_mlps: int = 2
    w: float = 10.0
    shift: float = 0.05
    filter_layout: FilterLayout = "(o d)"
    layer_norm_epsilon: float = 1e-5
    embed_dropout: float = 0.1
    resid_dropout: float = 0.0
    residual_in_fp32: bool = True
    n_classes: int | None = None
    pooling: Pooling = "mean"

    def __post_init__(self) -> None:
        """Fills in d_inner and refuses values that no model can have."""
        if self.d_inner is None:
            object.__setattr__(self, "d_inner", 4 * self.d_model)
        least = {"order": 2, "emb_dim": 3, "l_max": 2, "num_inner_mlps": 0}
        counts = [f.name for f in dataclasses.fields(self) if f.type in ("int", "int | None")]
        for name in counts:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least.get(name, 1)):
                raise UserError(f"model: {name}={value!r}; an integer of at least {least.get(name, 1)} is accepted")
        if self.emb_dim % 2 == 0:
            raise UserError(f"model: emb_dim={self.emb_dim}; odd numbers are accepted: time, and pairs of sines")
        for name, accepted in (("filter_layout", LAYOUTS), ("pooling", POOLINGS)):
            if getattr(self, name) not in accepted:
                raise UserError(f"model: {name}={getattr(self, name)!r}; accepted: {', '.join(map(repr, accepted))}")
        for name in (f.name for f in dataclasses.fields(self) if f.type == "float"):
            if not isinstance(getattr(self, name), int | float):
                raise UserError(f"model: {name}={getattr(self, name)!r}; a number is accepted")
        for name in ("embed_dropout", "resid_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"model: {name}={getattr(self, name)!r}; at least 0 and below 1 is accepted")

    @property
    def padded_vocab(self) -> int:
        """Rows of the embedding and number of logits, V."""
        return math.ceil(self.vocab_size / self.pad_vocab_size_multiple) * self.pad_vocab_size_multiple

    @property
    def parameters(self) -> int:
        """Trained parameters, the head's left out."""
        assert self.d_inner is not None
        d, f, n = self.d_model, self.filter_order, self.order
        filters = f * (self.emb_dim + 2) + self.num_inner_mlps * f * (f + 1) + (n - 1) * d * (f + 1)
        mixer = (n + 1) * d * (d + 1 + self.short_filter_order + 1) + d * (d + 1) + filters
        mlp = 2 * d * self.d_inner + self.d_inner + d
        return self.padded_vocab * d + self.n_layer * (mixer + mlp + 4 * d) + 2 * d


class HyenaOperator(nn.Module):
    """Gated long convolutions: y = x0 * conv(k, ... x1 * conv(k', x2 * v)), all projections of the input.

    Source: Poli et al. 2023, "Hyena Hierarchy", arXiv:2302.10866, section 3.
    """

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__()
        d, width = config.d_model, (config.order + 1) * config.d_model
        self.order = config.order
        self.in_proj = nn.Linear(d, width)
        self.out_proj = nn.Linear(d, d)
        self.short_filter = nn.Conv1d(width, width, config.short_filter_order, groups=width)
        self.filter_fn = HyenaFilter(
            d,
            config.order,
            emb_dim=config.emb_dim,
            filter_order=config.filter_order,
            num_inner_mlps=config.num_inner_mlps,
            w=config.w,
            shift=config.shift,
            layout=config.filter_layout,
        )

    def forward(self, u: Tensor, where: Positions, mask: Tensor | None = None) -> Tensor:
        """u (B, L, d) to (B, L, d); with mask (B, L), tokens where it is False are as if they were not there."""
        x = self.in_proj(u).transpose(1, 2)
        real = None if mask is None else mask[:, None].to(x.dtype)
        if real is not None:
            x = x * real
        assert self.short_filter.bias is not None
        x = short_conv(x, self.short_filter.weight[:, 0].to(x.dtype), self.short_filter.bias.to(x.dtype))
        if real is not None:
            x = x * real
        x0, *gates, v = x.chunk(self.order + 1, dim=1)
        k, skip = self.filter_fn(where), self.filter_fn.skip()
        for o, gate in enumerate(reversed(gates)):
            last = o == len(gates) - 1
            v = fftconv(v, k[o], pregate=gate, skip=skip[o], postgate=x0 if last else None)
        y: Tensor = self.out_proj(v.transpose(1, 2))
        return y


class Mlp(nn.Module):
    """fc2(gelu(fc1(x))), gelu by its tanh form."""

    def __init__(self, d_model: int, d_inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d_model, d_inner)
        self.fc2 = nn.Linear(d_inner, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., d) to (..., d)."""
        y: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return y


class Block(nn.Module):
    """x + mixer(norm1(x)), then x + mlp(norm2(x)), on the residual stream."""

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__()
        assert config.d_inner is not None
        self.mixer = HyenaOperator(config)
        self.norm1 = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.mlp = Mlp(config.d_model, config.d_inner)
        self.norm2 = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.resid_dropout)

    def forward(self, residual: Tensor, where: Positions, mask: Tensor | None = None) -> Tensor:
        """The residual stream (B, L, d) after this block."""
        h = self.mixer(self.norm1(residual.to(self.norm1.weight.dtype)), where, mask)
        residual = residual + self.dropout(h)
        h = self.mlp(self.norm2(residual.to(self.norm2.weight.dtype)))
        residual = residual + self.dropout(h)
        return residual


class Embeddings(nn.Module):
    """Holds the embedding under its published name."""

    def __init__(self, rows: int, d_model: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(rows, d_model)


class Backbone(nn.Module):
    """Embedding, blocks, final norm: token ids to hidden states."""

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__()
        self.residual_in_fp32 = config.residual_in_fp32
        self.embeddings = Embeddings(config.padded_vocab, config.d_model)
        self.dropout = nn.Dropout(config.embed_dropout)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)

    @property
    def table(self) -> Tensor:
        """The embedding (V, d), which is the output layer too."""
        return self.embeddings.word_embeddings.weight

    def embed(self, ids: Tensor) -> Tensor:
        """The residual stream (B, L, d) before the first block."""
        x: Tensor = self.dropout(F.embedding(ids, self.table))
        return x.to(torch.promote_types(x.dtype, torch.float32)) if self.residual_in_fp32 else x

    def forward(self, ids: Tensor, where: Positions, mask: Tensor | None = None) -> Tensor:
        """Hidden states (B, L, d) after the final norm."""
        x = self.embed(ids)
        for block in self.layers:
            x = block(x, where, mask)
        y: Tensor = self.ln_f(x.to(self.ln_f.weight.dtype))
        return y


class Head(nn.Module):
    """Classifier: pools the sequence, then one linear layer."""

    def __init__(self, d_model: int, n_classes: int, pooling: Pooling) -> None:
        super().__init__()
        self.pooling = pooling
        self.output_transform = nn.Linear(d_model, n_classes)

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """hidden (B, L, d) to (B, n_classes); with mask (B, L) only the tokens where it is True count."""
        y: Tensor = self.output_transform(pool(hidden, self.pooling, mask))
        return y


def pool(hidden: Tensor, pooling: Pooling, mask: Tensor | None = None) -> Tensor:
    """One vector a sequence, (B, L, d) to (B, d), from the tokens where mask (B, L) is True (None: from all)."""
    if mask is None:
        mask = hidden.new_ones(hidden.shape[:2], dtype=torch.bool)
    if pooling in ("mean", "sum"):
        total = torch.where(mask[..., None], hidden, 0).sum(1)
        return total if pooling == "sum" else total / mask.sum(1, keepdim=True).clamp(min=1).to(hidden.dtype)
    at = mask.long().argmax(1) if pooling == "first" else mask.shape[1] - 1 - mask.flip(1).long().argmax(1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), at]


class HyenaDNA(nn.Module):
    """HyenaDNA, a language model (tied output layer) or, with config.n_classes, a classifier.

    Args:
        config: The model's shape; `HyenaDNAConfig(**kwargs)` of a recipe under `recipes/genomics/model/`.
    Source: Nguyen et al. 2023, "HyenaDNA", arXiv:2306.15794.
    """

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.head = None if config.n_classes is None else Head(config.d_model, config.n_classes, config.pooling)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws new weights: N(0, 0.02), by sqrt(2 n_layer) less for layers into the residual stream; biases 0."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                into_residual = name.endswith(("out_proj", "fc2"))
                std = 0.02 / math.sqrt(2 * self.config.n_layer) if into_residual else 0.02
                nn.init.normal_(module.weight, std=std)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, HyenaFilter):
                nn.init.normal_(module.bias)
            elif isinstance(module, Sin):
                nn.init.constant_(module.freq, self.config.w)
            elif isinstance(module, nn.Conv1d | nn.LayerNorm):
                module.reset_parameters()

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of the next token at every position, or of the classes.

        Args:
            ids: Token ids (B, L), L at most config.l_max.
            mask: (B, L), False where a token is padding: it then changes no other token, on whichever side it stands.
                None: every token counts, as in the published code.
        Returns: (B, L, V), or (B, n_classes) with a classifier head.
        Raises: UserError: L is 0 or greater than l_max, or ids and mask do not fit.
        Complexity: O(B d (L log L + d L)) time, O(B d L) memory. For a long sequence without gradients see
            `farfield.apps.genomics.inference.forward_long`.
        """
        hidden = self.hidden_states(ids, mask)
        return F.linear(hidden, self.backbone.table) if self.head is None else self.head(hidden, mask)

    def hidden_states(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Hidden states (B, L, d) after the final norm; arguments as of `forward`."""
        self.check_input(ids, mask)
        hidden: Tensor = self.backbone(ids, self.positions(ids.shape[1]), mask)
        return hidden

    def positions(self, seqlen: int) -> Positions:
        """The positions that all layers share, on the model's device."""
        return positions(self.config.l_max, self.config.emb_dim, seqlen, self.backbone.table.device)

    def check_input(self, ids: Tensor, mask: Tensor | None = None) -> None:
        """Refuses ids that this model cannot read."""
        if ids.ndim != 2 or ids.dtype not in (torch.int64, torch.int32) or ids.shape[1] == 0:
            came = f"{ids.dtype} {tuple(ids.shape)}"
            raise UserError(f"HyenaDNA: ids are {came}; accepted: int64 or int32 (batch, tokens), at least one token")
        if ids.shape[1] > self.config.l_max:
            raise UserError(
                f"HyenaDNA: {ids.shape[1]:,} tokens came, this model reads at most l_max={self.config.l_max:,}; "
                f"cut the sequence, take a model with a longer window, or model.regrid({ids.shape[1]}), which "
                "stretches its filters"
            )
        if mask is not None and (mask.shape != ids.shape or mask.dtype != torch.bool):
            came = f"{mask.dtype} {tuple(mask.shape)}"
            raise UserError(f"HyenaDNA: mask is {came}; accepted: bool {tuple(ids.shape)}, the shape of ids")

    def regrid(self, l_max: int) -> None:
        """Samples the filters on a grid of l_max positions from now on: the window changes, and every filter stretches.

        Sample j of the grid is the time j / (l_max - 1): a filter that faded within 100 tokens fades within
        100 l_max_new / l_max_old. It is another function than the trained one: train it on, or measure what it lost.

        Raises: UserError: the checkpoint brought positions of its own, which no other grid has.
        """
        default = positions(self.config.l_max, self.config.emb_dim, self.config.l_max)
        stored = [m.pos_emb for m in self.modules() if isinstance(m, HyenaFilter)]
        for s in stored:
            for kept, plain in ((s.z, default.z), (s.t, default.t[:, None])):
                if kept is not None and (kept[0].cpu().double() - plain.double()).abs().max() > SAME_POSITIONS:
                    raise UserError(
                        f"HyenaDNA: regrid({l_max}) was asked of a model whose checkpoint holds positions of its own "
                        f"for l_max={self.config.l_max}; only the default positions can be sampled anew"
                    )
        self.config = dataclasses.replace(self.config, l_max=l_max)
        for s in stored:
            s.z = s.t = None

    def param_groups(self, lr: float, weight_decay: float, *, filter_lr: float | None = None) -> list[dict[str, Any]]:
        """Parameters for an optimiser, each once: weights decay; filters, norms and biases do not.

        Args:
            lr: Learning rate.
            weight_decay: Of the matrices outside the filters.
            filter_lr: Learning rate of the filters' networks; lr when left out.
        Returns: Three groups, named "decay", "no_decay" and "filter".
        """
        members: dict[str, list[nn.Parameter]] = {"decay": [], "no_decay": [], "filter": []}
        for name, p in self.named_parameters():
            in_filter = ".implicit_filter." in name
            members["filter" if in_filter else "decay" if p.ndim > 1 else "no_decay"].append(p)
        rates = {"decay": lr, "no_decay": lr, "filter": lr if filter_lr is None else filter_lr}
        return [
            {"name": g, "params": ps, "lr": rates[g], "weight_decay": weight_decay if g == "decay" else 0.0}
            for g, ps in members.items()
        ]

    @classmethod
    def from_checkpoint(cls, path: str | Path, **changes: Any) -> HyenaDNA:
        """A model from a published or an own checkpoint; see `farfield.apps.genomics.checkpoint.load`."""
        from farfield.apps.genomics.checkpoint import load

        return load(path, **changes)
