"""Which kernel options run the backward of rows of a length on a device: measured choices first."""

from dataclasses import replace

from .plan import Device, RowPlan, and_unstaged, device_of, fft_size, first_fitting

BACK_8K = RowPlan((32, 16, 16), spectrum=2)
BACK_16K = RowPlan((32, 32, 16), spectrum=2, padded=0, staged=2, scratch=1)
BACKWARD: dict[int, tuple[RowPlan, ...]] = {
    128: and_unstaged(RowPlan((16, 1, 8), groups=2, blocks=6, spectrum=2)),
    256: and_unstaged(RowPlan((16, 1, 16), groups=2, blocks=6, spectrum=2)),
    512: and_unstaged(RowPlan((16, 2, 16), blocks=12, spectrum=2)),
    1024: and_unstaged(RowPlan((16, 4, 16), blocks=6, spectrum=2)),
    2048: and_unstaged(RowPlan((16, 8, 16), blocks=3, spectrum=2)),
    4096: and_unstaged(RowPlan((16, 16, 16), blocks=2, spectrum=2)),
    8192: and_unstaged(BACK_8K, replace(BACK_8K, padded=0, staged=2)),
    16384: and_unstaged(BACK_16K),
}


def backward_plan(length: int, item: int, gates: tuple[bool, bool], device: Device, staged: bool) -> RowPlan | None:
    """The plan of backward.cuh for rows of a length; None where none fits."""
    plans = BACKWARD.get(fft_size(length), ())
    return first_fitting(plans, device, staged, lambda p: p.backward_bytes(item, *gates))


def backward_fits(length: int, item: int, gates: tuple[bool, bool], index: int) -> bool:
    """Whether a kernel on this device holds what the backward of a row needs."""
    return backward_plan(length, 4 if item == 8 else item, gates, device_of(index), False) is not None
