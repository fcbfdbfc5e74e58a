import collections
import contextlib
import datetime
import functools
import os
import pathlib
import struct
import subprocess
import types

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from farfield.apps.genomics.hyenadna import HyenaDNA, HyenaDNAConfig
from farfield.apps.genomics.weights_file import plain, read_weights
from farfield.apps.training.errors import UserError
from tests.apps.genomics.foreign_checkpoints import (
    STANDALONE,
    check_logits,
    hf_folder,
    lightning,
    original_config,
    original_folder,
    with_head,
)
from tests.apps.genomics.golden_models import parameters_of
from tests.golden import golden


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
