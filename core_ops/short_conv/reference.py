"""Definition of short_conv: y[t] = bias + sum_s w[K-1-s] u[t-s]."""

import torch
from torch import Tensor


def short_conv_reference(u: Tensor, w: Tensor, bias: Tensor | None = None, seq_idx: Tensor | None = None) -> Tensor:
    """y[t] = bias + sum_{s<K} w[K-1-s] u[t-s], u being zero before its sequence.

    Args:
        u: Input (B, H, L). w: Taps (H, K), the last at time t. bias: (H,).
        seq_idx: Sequence of each position (B, L); no term crosses a change of it.
    Returns: (B, H, L).
    Complexity: O(B H L K).
    """
    length, taps = u.shape[-1], w.shape[-1]
    y = u * w[:, -1:]
    together = torch.ones(u.shape[0], length, dtype=torch.bool, device=u.device)
    for s in range(1, min(taps, length)):
        past = torch.nn.functional.pad(u[..., :-s], (s, 0))
        if seq_idx is not None:
            same = torch.nn.functional.pad(seq_idx[:, s:] == seq_idx[:, :-s], (s, 0))
            step = torch.nn.functional.pad(seq_idx[:, 1:] == seq_idx[:, :-1], (1, 0), value=True)
            together = together & torch.nn.functional.pad(step, (s - 1, 0))[:, :length] & same
            past = torch.where(together[:, None], past, 0)
        y = y + past * w[:, -1 - s, None]
    return y if bias is None else y + bias[:, None]
