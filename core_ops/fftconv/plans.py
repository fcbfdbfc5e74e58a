"""Which sizes and plans are fast on a CPU: a small table, from measurements in README.md."""

# Heads of 2^m whose transforms cost no more per point than a power of two (MKL, float32).
HEADS: tuple[int, ...] = (8, 9, 10, 12, 14, 15)


def smooth_size(least: int) -> int:
    """The smallest fast size >= least: even, a head times a power of two."""
    size = 2
    while size < least:
        size *= 2
    if size < 32:
        return size
    return min(head * size // 16 for head in (*HEADS, 16) if head * size // 16 >= least)
