"""Checkpoints of HyenaDNA: the three published formats, detected, and our own.

| format | found by | shift, filter layout when it does not say |
|---|---|---|
| ours: model.safetensors + config.json | "format" in the file's metadata or in config.json | says |
| Hugging Face `-hf` folder: config.json + model.safetensors | keys start with hyena. | 0.05, (o d) |
| original folder: config.json + weights.ckpt | a file of that name | 0.05, (o d) |
| Lightning .ckpt of the public training repository | "state_dict" in it | 0.0, (d o) |
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from farfield.apps.genomics.hyena_filter import positions
from farfield.apps.genomics.hyenadna import HyenaDNA, HyenaDNAConfig
from farfield.apps.genomics.weights_file import AGAIN, Weights, read_json, read_weights
from farfield.apps.training.errors import UserError

FORMAT = "farfield.hyenadna/1"
NAMES = ("model.safetensors", "weights.ckpt", "pytorch_model.bin")
PUBLISHED = {"shift": 0.05, "filter_layout": "(o d)"}
TRAINING_REPOSITORY = {"shift": 0.0, "filter_layout": "(d o)"}
# What a caller may change while loading: nothing that the weights already decide.
CHANGES = (
    *("l_max", "shift", "filter_layout", "layer_norm_epsilon", "embed_dropout", "resid_dropout"),
    *("residual_in_fp32", "n_classes", "pooling", "w"),
)
SAME = ("d_model", "n_layer", "d_inner", "vocab_size", "pad_vocab_size_multiple", "layer_norm_epsilon", "embed_dropout")
# Their name: ours.
FROM_ORIGINAL = {k: k for k in (*SAME, "resid_dropout", "residual_in_fp32")}
FROM_LAYER = {
    k: k for k in ("l_max", "order", "emb_dim", "filter_order", "num_inner_mlps", "w", "short_filter_order", "shift")
}
FROM_HF = {k: k for k in (*SAME, "short_filter_order", "filter_order", "emb_dim", "num_inner_mlps")} | {
    "max_seq_len": "l_max",
    "hyena_order": "order",
    "activation_freq": "w",
}
LAYER = re.compile(r"backbone\.layers\.(\d+)\.")
FREQ = re.compile(r"(.*\.implicit_filter\.)\d+\.freq")
STORED = re.compile(r"backbone\.layers\.\d+\.mixer\.filter_fn\.pos_emb\.[zt]")
log = logging.getLogger(__name__)


def load(path: str | Path, **changes: Any) -> HyenaDNA:
    """A HyenaDNA from a file or folder in any of the formats above; nothing in it is executed.

    Args:
        path: A checkpoint file, or the folder that holds it.
        changes: Fields of `HyenaDNAConfig` to set otherwise (see `CHANGES`). n_classes draws a new head at random
            where the file has none of that size.
    Returns: The model in evaluation mode on the CPU, in fp32 (float64 when the file is).
    Raises: UserError: no checkpoint there, damaged, of another shape, or with keys missing.
    """
    path = Path(path)
    unknown = [k for k in changes if k not in CHANGES]
    if unknown:
        raise UserError(f"{path}: {', '.join(unknown)} cannot be changed on loading; accepted: {', '.join(CHANGES)}")
    file = _find(path)
    weights = read_weights(file)
    config_file = file.parent / "config.json"
    config = read_json(config_file) if file.name in NAMES and config_file.is_file() else {}
    said, tensors = _understand(file, weights, config)
    facts = _facts(file, tensors)
    model = HyenaDNA(HyenaDNAConfig(**_settle(file, said, facts, changes)))
    _fill(file, model, tensors, new_head="n_classes" in changes)
    log.info("%s: read, l_max=%d, shift=%g", file, model.config.l_max, model.config.shift)
    return model.eval()


def save(model: HyenaDNA, folder: str | Path) -> Path:
    """Writes model.safetensors (the shape in its metadata) and config.json into folder, each atomically.

    Returns: Path of model.safetensors.
    """
    from farfield.apps.training import atomic_write

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"format": FORMAT, "model": dataclasses.asdict(model.config)}
    text = json.dumps(config, indent=1)
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items() if not _repeats(k)}
    atomic_write(folder / "config.json", (text + "\n").encode())
    path = folder / "model.safetensors"
    atomic_write(path, to_safetensors(tensors, {"format": "pt", "farfield": text}))
    return path


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; give a checkpoint file or the folder that holds it")
    found = [path / n for n in NAMES if (path / n).is_file()] or sorted(path.glob("*.ckpt"))
    if not found:
        raise UserError(f"{path}: holds no checkpoint; accepted: {', '.join(NAMES)}, or one .ckpt file")
    if found[0].name not in NAMES and len(found) > 1:
        raise UserError(f"{path}: holds {len(found)} .ckpt files ({found[0].name}, ...); name the one to read")
    return found[0]


def _understand(file: Path, weights: Weights, config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the file says of the model, under our names, and its tensors under the published names."""
    if "farfield" in weights.extra:
        try:
            config = dict(json.loads(weights.extra["farfield"]))
        except (TypeError, ValueError) as e:
            raise UserError(f"{file}: its metadata is no JSON object ({e}); {AGAIN}") from e
    if "format" in config:
        if config["format"] != FORMAT or not isinstance(config.get("model"), dict):
            raise UserError(f"{file}: format {config['format']!r} came, {FORMAT!r} is accepted; update farfield")
        fields = {f.name for f in dataclasses.fields(HyenaDNAConfig)}
        unknown = [k for k in config["model"] if k not in fields]
        if unknown:
            raise UserError(f"{file}: its config has unknown keys {', '.join(unknown)}; update farfield")
        return config["model"], weights.tensors
    if any(k.startswith("hyena.backbone.") for k in weights.tensors):
        return PUBLISHED | _renamed(config, FROM_HF), _stripped(file, weights.tensors, "hyena.")
    lightning = weights.extra.get("lightning", False)
    bare = lightning and not config and file.name != "weights.ckpt"
    given = _inner(config or weights.extra.get("hyper_parameters"), "model")
    layer = _inner(given.get("layer"), "")
    said = (TRAINING_REPOSITORY if bare else PUBLISHED) | _renamed(given, FROM_ORIGINAL) | _renamed(layer, FROM_LAYER)
    return said, _stripped(file, weights.tensors, "model." if lightning else "")


def _inner(config: Any, key: str) -> dict[str, Any]:
    """The dict under key, or the dict itself where there is none; empty for anything else."""
    if not isinstance(config, dict):
        return {}
    return config[key] if isinstance(config.get(key), dict) else config


def _renamed(config: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    # Texts such as "${eval:4 * ${.d_model}}" are left for the weights to say.
    return {ours: config[k] for k, ours in names.items() if isinstance(config.get(k), int | float)}


def _stripped(file: Path, tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The model's tensors under the published names: wrappers of gradient checkpointing and other modules left out."""
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        inner = name.removeprefix(prefix)
        if name.startswith(prefix) and inner.startswith(("backbone.", "lm_head.", "head.")):
            kept[re.sub(r"\.(mixer|mlp)\.layer\.", r".\1.", inner)] = tensor
        elif name.startswith(("score.", "decoder.")):
            log.warning("%s: %s is left out: only the language model is read", file, name)
    return kept


def _facts(file: Path, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """What the shapes of the weights decide."""
    first = "backbone.layers.0."
    filter_ = f"{first}mixer.filter_fn.implicit_filter."

    def size(name: str, axis: int, ndim: int) -> int:
        if name not in tensors:
            have = ", ".join(sorted(tensors)[:3]) or "none of a HyenaDNA"
            raise UserError(
                f"{file}: key {name} is missing (keys it has: {have}); accepted are HyenaDNA checkpoints: the "
                "published folders, .ckpt files of the public training repository, and farfield's own"
            )
        if tensors[name].ndim != ndim or 0 in tensors[name].shape:
            shape = tuple(tensors[name].shape)
            raise UserError(f"{file}: {name} has shape {shape}, {ndim} dimensions with elements are accepted; {AGAIN}")
        return tensors[name].shape[axis]

    d_model = size("backbone.embeddings.word_embeddings.weight", 1, 2)
    layers = {int(m[1]) for k in tensors if (m := LAYER.match(k))}
    if layers != set(range(len(layers))):
        raise UserError(f"{file}: blocks {sorted(layers)[:8]} came, 0 to {len(layers) - 1} are accepted; {AGAIN}")
    linears = [k for k in tensors if k.startswith(filter_) and k.endswith(".weight")]
    facts = {
        "padded_vocab": size("backbone.embeddings.word_embeddings.weight", 0, 2),
        "d_model": d_model,
        "n_layer": len(layers),
        "order": size(f"{first}mixer.in_proj.weight", 0, 2) // d_model - 1,
        "d_inner": size(f"{first}mlp.fc1.weight", 0, 2),
        "short_filter_order": size(f"{first}mixer.short_filter.weight", 2, 3),
        "filter_order": size(f"{filter_}0.weight", 0, 2),
        "emb_dim": size(f"{filter_}0.weight", 1, 2),
        "num_inner_mlps": len(linears) - 2,
    }
    if f"{first}mixer.filter_fn.pos_emb.z" in tensors:
        facts["l_max"] = size(f"{first}mixer.filter_fn.pos_emb.z", 1, 3)
    if "head.output_transform.weight" in tensors:
        facts["n_classes"] = size("head.output_transform.weight", 0, 2)
    return facts


def _settle(file: Path, said: dict[str, Any], facts: dict[str, int], changes: dict[str, Any]) -> dict[str, Any]:
    """The fields of the config: what the file says, checked against its weights, then the caller's changes."""
    rows = facts["padded_vocab"]
    if "vocab_size" not in said:
        said |= {"vocab_size": 12, "pad_vocab_size_multiple": 8} if rows == 16 else {"vocab_size": rows}
    if "pad_vocab_size_multiple" not in said:
        said["pad_vocab_size_multiple"] = 8 if -(-said["vocab_size"] // 8) * 8 == rows else 1
    padded = -(-int(said["vocab_size"]) // int(said["pad_vocab_size_multiple"])) * int(said["pad_vocab_size_multiple"])
    fields = {k: v for k, v in facts.items() if k != "padded_vocab"}
    compared = said | {"padded_vocab": padded} | {k: v for k, v in changes.items() if k == "l_max"}
    for name, fact in facts.items():
        if compared.get(name) in (None, fact) or (name in changes and name == "n_classes"):
            continue
        if name == "l_max" and name not in changes:
            log.warning("%s: config says l_max=%s, the stored positions %d: taken", file, compared[name], fact)
            continue
        todo = f"load it without, then model.regrid({compared[name]})" if name == "l_max" else AGAIN
        raise UserError(f"{file}: {name}={compared[name]} was given, its weights have {name}={fact}; {todo}")
    if "l_max" not in {*said, *facts, *changes}:
        raise UserError(
            f"{file}: nothing in it says how long its window is (no pos_emb.z, no config.json); put its config.json "
            "beside it, or load it with l_max=<max_length + 2>"
        )
    return said | fields | changes


def _fill(file: Path, model: HyenaDNA, tensors: dict[str, Tensor], *, new_head: bool) -> None:
    """Copies the tensors into the model, each key accounted for."""
    tensors = dict(tensors)
    table = "backbone.embeddings.word_embeddings.weight"
    output = tensors.pop("lm_head.weight", tensors[table])
    if output.shape != tensors[table].shape or not torch.equal(output, tensors[table]):
        raise UserError(f"{file}: lm_head.weight differs from {table}; in a HyenaDNA the two are one matrix; {AGAIN}")
    _store_positions(file, model, tensors)
    wanted = model.state_dict()
    if tensors[table].dtype == torch.float64:
        model.double()
        wanted = model.state_dict()
    _share_frequencies(file, wanted, tensors)
    if new_head:
        fresh = {k: v for k, v in wanted.items() if k.startswith("head.")}
        same = all(k in tensors and tensors[k].shape == v.shape for k, v in fresh.items())
        tensors = tensors if same else {k: v for k, v in tensors.items() if not k.startswith("head.")} | fresh
    for name in wanted:
        if name.endswith(".deltas"):
            tensors.setdefault(name, wanted[name])
    _require(file, "lacks", (k for k in wanted if k not in tensors))
    _require(file, "has unknown", (k for k in tensors if k not in wanted))
    for name, value in wanted.items():
        if tensors[name].shape != value.shape:
            came, needed = tuple(tensors[name].shape), tuple(value.shape)
            raise UserError(f"{file}: {name} has shape {came}, {needed} is accepted in this model; {AGAIN}")
        value.copy_(tensors[name])


def _store_positions(file: Path, model: HyenaDNA, tensors: dict[str, Tensor]) -> None:
    """Keeps the positions of a checkpoint where they are not the default, and drops them where they are."""
    config = model.config
    stored_names = [k for k in tensors if STORED.fullmatch(k)]
    default = positions(config.l_max, config.emb_dim, config.l_max if stored_names else 1)
    plain = {"z": default.z[None], "t": default.t[None, :, None]}
    for name in stored_names:
        module, _, which = name.rpartition(".")
        stored = tensors[name]
        if stored.shape != plain[which].shape:
            came, needed = tuple(stored.shape), tuple(plain[which].shape)
            raise UserError(f"{file}: {name} has shape {came}, {needed} is accepted in this model; {AGAIN}")
        # A checkpoint in 16 bits holds rounded positions; they are made anew.
        if torch.equal(stored, plain[which].to(stored.dtype)):
            del tensors[name]
        else:
            setattr(model.get_submodule(module), which, torch.empty_like(stored))


def _share_frequencies(file: Path, wanted: Mapping[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """Gives every use of a layer's one frequency vector the copy that the file holds, whichever it kept."""
    for name in wanted:
        if match := FREQ.fullmatch(name):
            copies = [k for k in tensors if (m := FREQ.fullmatch(k)) and m[1] == match[1]]
            if copies and any(not torch.equal(tensors[c], tensors[copies[0]]) for c in copies):
                raise UserError(f"{file}: {', '.join(copies)} differ, they are one vector in a HyenaDNA; {AGAIN}")
            if copies:
                tensors.setdefault(name, tensors[copies[0]])


def _repeats(name: str) -> bool:
    match = FREQ.fullmatch(name)
    return match is not None and name != f"{match[1]}1.freq"


def _require(file: Path, verb: str, names: Iterable[str]) -> None:
    wrong = list(names)
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise UserError(f"{file}: {verb} {', '.join(wrong[:4])}{more}; it is damaged, or not a HyenaDNA; {AGAIN}")
