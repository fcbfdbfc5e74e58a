"""What a call of fftconv would run, and why."""

from dataclasses import dataclass

from torch import Tensor

from .call import Call, Layout, Precision, check
from .cuda.forms import form_of
from .cuda.launch import intermediate_bytes
from .cuda.plan import ONE_LAUNCH, fft_size
from .modes import Mode, problem_of
from .op import REGISTRY
from .plans import smooth_size
from .spectrum import planned_for


@dataclass(frozen=True)
class Plan:
    """What a call of fftconv takes.

    Args:
        impl: The implementation. plan: Its algorithm. fft_size: Of the transform, 0 without one.
        scratch_bytes: Held at most besides the output. reason: Why.
    """

    impl: str
    plan: str
    fft_size: int
    scratch_bytes: int
    reason: str

    def __str__(self) -> str:
        """One line for a person."""
        size = f", FFT of {self.fft_size:,}" if self.fft_size else ""
        return f"{self.impl}: {self.plan}{size}, scratch {self.scratch_bytes / 2**20:.1f} MiB; {self.reason}"


def explain(
    u: Tensor,
    k: Tensor,
    *,
    mode: Mode = "causal",
    pregate: Tensor | None = None,
    postgate: Tensor | None = None,
    skip: Tensor | None = None,
    seq_idx: Tensor | None = None,
    precision: Precision = "auto",
    impl: str = "auto",
    layout: Layout = "bhl",
) -> Plan:
    """Which plan fftconv takes for these arguments, and why; nothing is computed.

    Args: Those of fftconv.
    Returns: The Plan; str(plan) is one line.
    Raises: ShapeError, DtypeError, KernelUnavailable: as fftconv.
    Complexity: O(1); with seq_idx one pass over it.
    Source: the tables of plans.py, measured.
    """
    call = check(u, k, mode, pregate, postgate, skip, seq_idx, precision, layout)
    name = REGISTRY.choose(impl, call).name
    if seq_idx is not None:
        changes = seq_idx.diff(dim=1) != 0
        packed = int(changes.sum()) + call.batch
        plan = plan_of(call, name)
        reason = f"{packed} packed sequences, each a call of its own; as one sequence: {plan.reason}"
        return Plan(name, plan.plan, plan.fft_size, plan.scratch_bytes, reason)
    return plan_of(call, name)


def plan_of(call: Call, name: str) -> Plan:
    """The Plan of a checked call on one implementation."""
    real = 8 if call.double else 4
    rows = call.batch * call.channels
    if name == "reference":
        square = call.channels * call.length * call.outputs * real
        return Plan(name, "definition", 0, 3 * square, "the definition, O(L^2): for tests")
    if name == "cuda":
        return cuda_plan(call)
    problem = problem_of(call.length, call.taps, call.start, call.outputs, call.period)
    if problem is None:
        return Plan(name, "zeros", 0, 0, "no tap reaches an output")
    if name == "torch":
        size = smooth_size(problem.period)
        why = f"u is on {call.device}" if call.device != "cpu" else "it was named"
        return Plan(name, "rfft", size, 4 * rows * size * real, f"torch.fft calls on all rows at once: {why}")
    plan = planned_for(call)[1]
    assert plan is not None
    return Plan(name, plan.kind, plan.size, plan.scratch, plan.reason)


def cuda_plan(call: Call) -> Plan:
    """The Plan of a checked call by the CUDA kernels."""
    form = form_of(call.mode, call.length, call.taps, True)
    size = fft_size(form.length)
    kind = "circular" if form.circular else f"{form.lead} taps before lag 0" if form.lead else "causal"
    why = f"rows of {form.length} samples, {kind}"
    if size <= ONE_LAUNCH:
        return Plan("cuda", "one_launch", size, 0, f"{why}: a row fits on one multiprocessor")
    held = intermediate_bytes(call.batch * call.channels * form.length * call.dtype.itemsize, call.channels, size)
    return Plan("cuda", "three_passes", size, held, f"{why}: columns, rows with the product inside, columns")
