"""FASTA files, plain or gzip, and BED intervals; every mistake is named by file and line.

A file is read once to check and index it. The index (.fai) lies beside the file; where that cannot be, and for the
unpacked copy of a gzip file or of one with ragged lines, in the cache: FARFIELD_CACHE, or ~/.cache/farfield.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import BinaryIO, cast

from farfield.apps.training.atomic import atomic_file, atomic_write
from farfield.apps.training.errors import UserError

GZIP = b"\x1f\x8b"
WIDTH = 80
# IUPAC codes of bases, gaps, stops; whatever else stands in a sequence line is no FASTA.
LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz*-."
COMPLEMENT = bytes.maketrans(b"ACGTURYKMBDHVacgturykmbdhv", b"TGCAAYRMKVHDBtgcaayrmkvhdb")


@dataclass(frozen=True)
class Interval:
    """Bases start to stop of a sequence, from 0, stop not included; `split` is the fourth column of a BED file."""

    name: str
    start: int
    stop: int
    split: str | None = None


def packaged_genome() -> Path:
    """The E. coli K-12 MG1655 genome, 4,639,675 bases, that comes with the package."""
    return Path(str(files("farfield.apps.genomics").joinpath("data", "ecoli_k12_mg1655.fa.gz")))


def reverse_complement(sequence: str) -> str:
    """The other strand, read in its direction; IUPAC codes and case are kept, U pairs with A."""
    return sequence.encode("ascii").translate(COMPLEMENT)[::-1].decode("ascii")


class Fasta:
    """Random access to the sequences of a FASTA file.

    Args:
        path: Plain or gzip.
    Raises: UserError: no such file, empty, truncated, no FASTA, a name that comes twice, a record without a sequence.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            what = "that is a folder, name the file in it" if self.path.is_dir() else "there is no such file"
            raise UserError(f"fasta={path}: {what}")
        try:
            plain, index = _prepared(self.path)
        except OSError as error:
            raise UserError(
                f"{path}: its index or unpacked copy cannot be written ({error}); set FARFIELD_CACHE to another folder"
            ) from error
        from pyfaidx import Fasta as Indexed

        self._file = Indexed(
            str(plain), indexname=str(index), as_raw=True, rebuild=False, build_index=False, read_ahead=None
        )
        self._lengths = {name: len(self._file[name]) for name in self._file.keys()}  # noqa: SIM118

    @property
    def names(self) -> list[str]:
        """Names of the sequences in the order of the file: the first word of each header."""
        return list(self._lengths)

    def length(self, name: str) -> int:
        """Bases of a sequence.

        Raises: UserError: there is none of that name.
        """
        if name not in self._lengths:
            shown = ", ".join(self.names[:5]) + (", ..." if len(self.names) > 5 else "")
            raise UserError(f"{self.path}: no sequence is called {name!r}; there are {len(self.names)}: {shown}")
        return self._lengths[name]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> str:
        """Bases start to stop of a sequence as they stand in the file, case included.

        Raises: UserError: no such sequence, or the interval is not inside it.
        """
        length = self.length(name)
        stop = length if stop is None else stop
        if not 0 <= start <= stop <= length:
            raise UserError(
                f"{self.path}: {name}:{start}-{stop} is not inside the sequence, which has {length:,} bases"
            )
        return "" if start == stop else str(self._file[name][start:stop])


def read_bed(path: str | Path, genome: Fasta) -> list[Interval]:
    """Intervals of a BED file: name, start, stop and, where there is one, the fourth column.

    Args:
        path: The file; blank lines and lines that begin with #, track or browser are passed over.
        genome: The sequences that the intervals have to lie in.
    Raises: UserError: no such file, a malformed line, an interval outside its sequence; file and line are named.
    """
    if not Path(path).is_file():
        raise UserError(f"bed={path}: there is no such file")
    intervals = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip() or line.startswith(("#", "track", "browser")):
            continue
        fields = line.rstrip().split("\t")
        if len(fields) < 3 or not (fields[1].isdecimal() and fields[2].isdecimal()):
            raise UserError(f"{path}, line {number}: {line[:60]!r} is not 'name<tab>start<tab>stop' with whole numbers")
        name, start, stop = fields[0], int(fields[1]), int(fields[2])
        try:
            length = genome.length(name)
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        if not start < stop <= length:
            raise UserError(
                f"{path}, line {number}: {name}:{start}-{stop} is empty or beyond the sequence's {length:,} bases"
            )
        intervals.append(Interval(name, start, stop, fields[3] if len(fields) > 3 else None))
    if not intervals:
        raise UserError(f"{path}: holds no interval; a BED file has lines 'name<tab>start<tab>stop'")
    return intervals


def _prepared(path: Path) -> tuple[Path, Path]:
    """A plain file with even lines, and its index; both are made where they are missing or older than the file."""
    stat = path.stat()
    key = hashlib.sha256(f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}".encode()).hexdigest()[:16]
    copy = _cache() / f"{path.stem}-{key}.fa"
    beside, kept = path.with_name(f"{path.name}.fai"), copy.with_name(f"{copy.name}.fai")
    packed = _packed(path)
    # The index is published last: where it is, the copy is whole.
    if kept.is_file() and (copy.is_file() or not packed):
        return (copy if copy.is_file() else path), kept
    if not packed:
        if beside.is_file() and beside.stat().st_mtime_ns >= stat.st_mtime_ns:
            return path, beside
        index, even = _index(path, path.open("rb"))
        if even:
            try:
                atomic_write(beside, index)
            except OSError:
                atomic_write(kept, index)
                return path, kept
            return path, beside
    with atomic_file(copy) as temporary, temporary.open("wb") as target:
        _rewrite(path, target)
    atomic_write(kept, _index(copy, copy.open("rb"))[0])
    return copy, kept


def _packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == GZIP


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if _packed(path) else path.open("rb")


def _cache() -> Path:
    return Path(os.environ.get("FARFIELD_CACHE") or Path.home() / ".cache" / "farfield") / "fasta"


def _rewrite(path: Path, target: BinaryIO) -> None:
    """A checked copy with lines of equal width."""
    pending = b""

    def flush(rest: bool) -> None:
        nonlocal pending
        whole = len(pending) if rest else len(pending) - len(pending) % WIDTH
        target.writelines(pending[i : i + WIDTH] + b"\n" for i in range(0, whole, WIDTH))
        pending = pending[whole:]

    for _, _, line in _checked(path, _opened(path)):
        if line.startswith(b">"):
            flush(rest=True)
            target.write(line + b"\n")
        else:
            pending += line
            if len(pending) >= 64 * WIDTH:
                flush(rest=False)
    flush(rest=True)


def _index(path: Path, file: BinaryIO) -> tuple[str, bool]:
    """The .fai of a plain file (name, bases, offset, bases a line, bytes a line), and whether its lines are even."""
    names: list[str] = []
    rows: list[list[int]] = []
    even, ended, expected = True, False, 0
    for offset, size, line in _checked(path, file):
        if line.startswith(b">"):
            names.append(line[1:].split(maxsplit=1)[0].decode("utf-8", "replace"))
            rows.append([0, offset + size, 0, 0])
            ended, expected = False, 0
            continue
        row = rows[-1]
        if row[2] == 0:
            row[1:] = offset, len(line), size
        # Only the last line of a sequence may be shorter, nothing may follow it, and no blank line may stand between.
        even &= expected in (0, offset)
        expected = offset + size
        even &= not ended and len(line) <= row[2] and (len(line) < row[2] or size in (row[3], len(line)))
        ended = len(line) < row[2]
        row[0] += len(line)
    lines = ("\t".join(map(str, (name, *row))) for name, row in zip(names, rows, strict=True))
    return "".join(f"{line}\n" for line in lines), even


def _checked(path: Path, file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """(offset, bytes, text without its end) of every line that is not blank, refusing what is no FASTA."""
    names: dict[bytes, int] = {}
    offset, number, bases, header = 0, 0, 0, 0
    lines = iter(file)
    with file:
        while True:
            try:
                raw = next(lines, None)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise UserError(
                    f"{path}: the gzip file is truncated or damaged behind line {number} ({error}); get it again"
                ) from None
            if raw is None:
                break
            number += 1
            line = raw.rstrip()
            if line.startswith(b">"):
                _require_sequence(path, header, bases)
                name = line[1:].split(maxsplit=1)[0] if line[1:].strip() else b""
                if not name or line[1:2].isspace():
                    raise UserError(
                        f"{path}, line {number}: a header without a name; write '>name' with no space before it"
                    )
                if name in names:
                    first = f"first in line {names[name]}"
                    raise UserError(f"{path}, line {number}: the name {_show(name)} comes twice, {first}; rename one")
                names[name], header, bases = number, number, 0
                yield offset, len(raw), line
            elif line:
                if not names:
                    raise UserError(f"{path}, line {number}: {_show(line)} is no FASTA, which begins with '>name'")
                if foreign := line.translate(None, LETTERS):
                    raise UserError(
                        f"{path}, line {number}: {_show(foreign[:1])} is no letter of a sequence; is it a FASTA file?"
                    )
                bases += len(line)
                yield offset, len(raw), line
            offset += len(raw)
    if not names:
        raise UserError(f"{path}: the file is empty; a FASTA file has lines '>name' and sequence")
    _require_sequence(path, header, bases)


def _require_sequence(path: Path, header: int, bases: int) -> None:
    if header and not bases:
        raise UserError(f"{path}, line {header}: this record has no sequence; remove it, or get the whole file")


def _show(raw: bytes) -> str:
    return repr(raw[:40].decode("ascii", "backslashreplace"))
