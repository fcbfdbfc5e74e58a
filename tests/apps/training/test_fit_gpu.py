"""fit on a GPU: resumed equals uninterrupted there too, in every precision."""

import pytest
import torch

from farfield.apps.training import Interrupted
from tests.apps.training.test_fit import numbers, run, stopping_at

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_resumed_equals_uninterrupted(tmp_path, precision):
    settings = {"device": "cuda", "precision": precision}
    straight, before = run(tmp_path / "a", **settings)
    for step in (7, 15):
        with pytest.raises(Interrupted):
            run(tmp_path / f"b{step}", cls=stopping_at(step), **settings)
        resumed, after = run(tmp_path / f"b{step}", resume=True, **settings)
        assert numbers(resumed) == numbers(straight)
        assert all(torch.equal(value, after.state_dict()[key]) for key, value in before.state_dict().items())
    assert straight.environment()["device"] == torch.cuda.get_device_name()
