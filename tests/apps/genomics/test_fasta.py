"""FASTA and BED: every form reads the same, every mistake is named by file and line."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farfield.apps.genomics.fasta import Fasta, Interval, packaged_genome, read_bed, reverse_complement
from farfield.apps.training import UserError

TEXT = ">one first record\nACGTN\nacgtn\nAC\n>two\nGGGG\n"
ONE, TWO = "ACGTNacgtnAC", "GGGG"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FARFIELD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(path: Path, content: str | bytes) -> Path:
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize("name", ["a.fa", "a.fa.gz"])
@pytest.mark.parametrize(
    "text", [TEXT, TEXT.replace("\n", "\r\n"), TEXT.rstrip("\n"), "\n\n" + TEXT.replace("\n>two", "\n\n>two")]
)
def test_every_form_of_a_file_reads_the_same(tmp_path, name, text):
    genome = Fasta(write(tmp_path / name, text))
    assert genome.names == ["one", "two"]
    assert genome.read("one") == ONE
    assert genome.read("two") == TWO
    assert [genome.read("one", a, b) for a, b in ((0, 1), (3, 8), (11, 12), (5, 5))] == ["A", "TNacg", "C", ""]


@pytest.mark.parametrize("blank", [False, True])
def test_ragged_and_blank_lines_are_evened_out(tmp_path, blank):
    ragged = (">one\nAC\nGTNacg\ntnA\nC\n>two\nGGGG\n", ">one\nACGTN\n\nacgtn\nAC\n>two\nGGGG\n")[blank]
    genome = Fasta(write(tmp_path / "a.fa", ragged))
    assert genome.read("one") == ONE
    assert genome.read("one", 1, 9) == ONE[1:9]


def test_index_is_built_once_and_again_when_the_file_changes(tmp_path):
    path = write(tmp_path / "a.fa", TEXT)
    Fasta(path)
    index = tmp_path / "a.fa.fai"
    made = index.stat().st_mtime_ns
    assert Fasta(path).read("two") == TWO
    assert index.stat().st_mtime_ns == made
    write(path, ">one\nAAAA\n")
    os.utime(index, ns=(made - 10**9, made - 10**9))
    assert Fasta(path).names == ["one"]
    assert Fasta(path).read("one") == "AAAA"


def test_a_folder_that_cannot_be_written_to_keeps_its_index_in_the_cache(tmp_path, cache, monkeypatch):
    from farfield.apps.genomics import fasta

    def refuse(path, data):
        if Path(path).parent == tmp_path:
            raise PermissionError(path)
        return write_anyway(path, data)

    write_anyway = fasta.atomic_write
    monkeypatch.setattr(fasta, "atomic_write", refuse)
    path = write(tmp_path / "a.fa", TEXT)
    for _ in range(2):
        assert Fasta(path).read("one") == ONE
    assert {f.suffix for f in (cache / "fasta").iterdir()} == {".fai"}


def test_a_cache_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("FARFIELD_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="FARFIELD_CACHE"):
        Fasta(write(tmp_path / "a.fa.gz", TEXT))


def test_two_processes_may_open_a_new_file_together(tmp_path):
    path = write(tmp_path / "a.fa.gz", TEXT * 1 + ">three\n" + "ACGT" * 50_000)
    program = f"from farfield.apps.genomics.fasta import Fasta; print(len(Fasta({str(path)!r}).read('three')))"
    env = os.environ | {"PYTHONPATH": ".typing"}
    running = [
        subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert [p.communicate()[0].strip() for p in running] == ["200000"] * 3
    assert not [f for f in (tmp_path / "cache" / "fasta").iterdir() if f.name.startswith(".tmp")]


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("a.fa", "", "empty"),
        ("a.fa", "\n\n", "empty"),
        ("a.fa", "ACGT\n", "line 1"),
        ("a.fa", ">one\nACGT\n>one\nAC\n", "line 3"),
        ("a.fa", ">one\n>two\nAC\n", "line 1"),
        ("a.fa", ">one\nAC\n>two\n", "line 3"),
        ("a.fa", "> one\nAC\n", "line 1"),
        ("a.fa", ">\nAC\n", "line 1"),
        ("a.fa", ">one\nAC\nAC1T\n", "line 3"),
        ("a.fa", b"\x89PNG\r\n\x1a\n\x00", "line 1"),
        ("a.fa", "@read\nACGT\n+\nIIII\n", "line 1"),
        ("a.fa.gz", ">one\nACGT\n>one\nAC\n", "line 3"),
    ],
)
def test_a_file_that_is_no_fasta_is_refused_by_file_and_line(tmp_path, name, content, named):
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=named) as caught:
        Fasta(path)
    assert str(path) in str(caught.value)
    left = [f for f in tmp_path.rglob("*") if f.is_file() and f != path]
    assert left == [], "nothing half-written stays"


def test_a_truncated_gzip_file_is_refused(tmp_path):
    whole = gzip.compress((">one\n" + "ACGTTGCA\n" * 20_000).encode())
    path = tmp_path / "a.fa.gz"
    for size in (len(whole) // 2, len(whole) - 4):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="truncated or damaged behind line"):
            Fasta(path)
    path.write_bytes(whole[:40] + b"\x00" * 20 + whole[60:])
    with pytest.raises(UserError, match="damaged"):
        Fasta(path)


def test_wrong_names_and_intervals_are_refused(tmp_path):
    genome = Fasta(write(tmp_path / "a.fa", TEXT))
    with pytest.raises(UserError, match="one, two"):
        genome.read("three")
    for start, stop in ((-1, 2), (3, 2), (0, 13)):
        with pytest.raises(UserError, match="12 bases"):
            genome.read("one", start, stop)
    with pytest.raises(UserError, match="no such file"):
        Fasta(tmp_path / "none.fa")


def test_bed_intervals_are_read(tmp_path):
    genome = Fasta(write(tmp_path / "a.fa", TEXT))
    bed = write(tmp_path / "a.bed", "track name=x\n# comment\n\none\t0\t5\ttrain\none\t5\t12\tvalid\t0\t+\ntwo\t1\t2\n")
    assert read_bed(bed, genome) == [
        Interval("one", 0, 5, "train"),
        Interval("one", 5, 12, "valid"),
        Interval("two", 1, 2),
    ]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("one\t0\n", "line 1"),
        ("one\t0\t5\none 0 5\n", "line 2"),
        ("one\t-1\t5\n", "line 1"),
        ("one\ta\t5\n", "line 1"),
        ("three\t0\t5\n", "line 1.*three"),
        ("one\t5\t5\n", "line 1"),
        ("one\t5\t13\n", "line 1.*12 bases"),
        ("# nothing\n", "no interval"),
    ],
)
def test_a_malformed_bed_line_is_named(tmp_path, text, named):
    genome = Fasta(write(tmp_path / "a.fa", TEXT))
    with pytest.raises(UserError, match=named):
        read_bed(write(tmp_path / "a.bed", text), genome)


@given(st.text(alphabet="ACGTNRYKMSWBDHVacgtn", max_size=300))
def test_reverse_complement_twice_is_the_sequence(sequence):
    assert reverse_complement(reverse_complement(sequence)) == sequence


def test_reverse_complement_of_known_sequences():
    assert reverse_complement("AACGTN") == "NACGTT"
    assert reverse_complement("RYKMSWBDHV") == "BDHVWSKMRY"
    assert reverse_complement("acU") == "Agt"


def test_packaged_genome_is_whole():
    genome = Fasta(packaged_genome())
    (name,) = genome.names
    assert genome.length(name) == 4_639_675
    sequence = genome.read(name)
    assert set(sequence) == set("ACGT")
    assert 0.50 < (sequence.count("G") + sequence.count("C")) / len(sequence) < 0.51


def real_genomes() -> list[Path]:
    root = Path(__file__).parents[4] / "shared" / "data"
    return sorted(Path(os.environ.get("FARFIELD_DATA", root), "genomes").glob("*.fa.gz"))


@pytest.mark.parametrize("name", ["scerevisiae_chr1_2", "human_chr22_20-21M", "vcholerae_h1"])
def test_real_genomes_are_read_as_biopython_reads_them(name):
    found = [p for p in real_genomes() if p.name == f"{name}.fa.gz"]
    if not found:
        pytest.skip(f"{name}.fa.gz is not in FARFIELD_DATA or ../shared/data")
    from Bio import SeqIO

    genome = Fasta(found[0])
    with gzip.open(found[0], "rt") as file:
        records = {r.id: str(r.seq) for r in SeqIO.parse(file, "fasta")}
    assert {n: genome.read(n) for n in genome.names} == records
