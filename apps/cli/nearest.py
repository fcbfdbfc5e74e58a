"""Messages for a name that does not exist: what came, the nearest that does, where to look."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(kind: str, given: str, known: Iterable[str], advice: str) -> str:
    """One sentence that names the nearest known name, or all of them where none is near."""
    known = sorted(known)
    # A key typed without its group comes first: 'd_model' for 'model.d_model'.
    near = [k for k in known if k.rsplit(".", 1)[-1] == given] or get_close_matches(given, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"accepted: {', '.join(known)}."
    return f"there is no {kind} {given!r}: {hint} {advice}"
