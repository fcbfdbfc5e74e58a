"""`farfield retrieval evaluate`: BM25, a truncating encoder, chunk-max and hybrid on LoCoV1 tasks, with intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from farfield.apps.retrieval import evidence, loco, metrics, provenance, ranking
from farfield.apps.retrieval.cache import cache_folder, encode_cached, encode_queries_cached
from farfield.apps.retrieval.encoder import Encoding, fingerprint_digest, load_encoder
from farfield.apps.retrieval.loco import Task
from farfield.apps.retrieval.metrics import Interval
from farfield.apps.retrieval.ranking import Ranking
from farfield.apps.training.atomic import atomic_write
from farfield.apps.training.errors import UserError

if TYPE_CHECKING:
    from farfield.apps.retrieval.sentence_encoder import SentenceEncoder

BM25_FULL, BM25_FIRST = "BM25", "BM25, first {:,} characters"
FIRST, BEST, WHOLE = "encoder, first window", "encoder, best window", "encoder, mean of windows"
ANY, HYBRID = "encoder, best of windows and mean", "hybrid of BM25 and the last"
DEFAULTS = {BM25_FULL: "bm25", ANY: "dense", HYBRID: "hybrid"}
# The rule of the default: hybrid may lose this much nDCG@10 to BM25, and no more.
TOLERATED = 0.01


@dataclass(frozen=True)
class Score:
    """One row of one task: means with intervals, nDCG@10 by bucket (mean, queries), and the values they come from."""

    ndcg: Interval
    recall: dict[int, Interval]
    mrr: Interval
    by_length: dict[str, tuple[float, int]]
    by_position: dict[str, tuple[float, int]]
    values: list[float]


@dataclass(frozen=True)
class Result:
    """All rows of one task."""

    queries: int
    documents: int
    dropped: dict[str, int]
    setting: str
    contamination: str
    truncated_queries: int
    estimated_positions: int
    rows: dict[str, Score]
    differences: dict[str, Interval]


def evaluate(
    *,
    run_folder: Path,
    data: str | None,
    tasks: list[str] | None,
    encoder: str | None,
    window: int | None,
    overlap: int,
    k1: float,
    b: float,
    first_characters: int,
    fusion: dict[str, Any],
    recall: list[int],
    draws: int,
    in_domain: list[str],
    cache: str | None,
    out: str | None,
    device: str,
    precision: str,
    seed: int,
    resume: str | None,
) -> dict[str, Result]:
    """Print nDCG@10, recall and MRR of every row on every task that is there, and name those of LoCoV1 that are not.

    Args:
        run_folder: Where evaluation.json goes.
        data: Folder of tasks, see `loco`; None is $FARFIELD_DATA/retrieval.
        tasks: Names; None is all that are there.
        encoder: As of `load_encoder`; None evaluates BM25 alone.
        window, overlap: As of `load_encoder`.
        k1, b: As of `BM25`.
        first_characters: Of the row that sees the beginning of each text alone.
        fusion: k and weights of `metrics.fuse`, BM25 first.
        recall: Depths, at most 100.
        draws: Bootstrap resamples; whole documents with all their queries are drawn.
        in_domain: Tasks whose training part the encoder saw, beside those that its folder names.
        cache: As of `cache_folder`.
        out: JSON file to write; None is evaluation.json in the run folder.
        device, precision: As everywhere.
        seed: Of the bootstrap.
        resume: Run folder to continue; what was encoded stands in the cache anyway.
    Returns: Results by task.
    Raises: UserError: a file or setting is wrong.
    """
    root = loco.data_root(data)
    names = _chosen(root, tasks)
    _check_fusion(fusion)
    if not all(isinstance(k, int) and 1 <= k <= ranking.DEPTH for k in recall):
        raise UserError(f"recall={recall}: depths from 1 to {ranking.DEPTH} are accepted")
    model = (
        None
        if encoder is None
        else load_encoder(encoder, device=device, precision=precision, window=window, overlap=overlap)
    )
    told = provenance.Provenance(()) if model is None else provenance.read(model.folder)
    told = provenance.Provenance(told.sources, told.tasks | frozenset(in_domain), told.ids)
    results: dict[str, Result] = {}
    for name in names:
        task = loco.load(root, name)
        texts, queries = list(task.documents.values()), [q.text for q in task.queries]
        full = ranking.by_words(queries, texts, k1=k1, b=b, first=None)
        first = ranking.by_words(queries, texts, k1=k1, b=b, first=first_characters)
        rows = {BM25_FULL: full, BM25_FIRST.format(first_characters): first}
        truncated = 0
        if model is not None:
            rows |= _dense(model, queries, texts, cache_folder(cache), name)
            rows[HYBRID] = ranking.hybrid(full, rows[ANY], **fusion)
            truncated = sum(n > model.max_query_tokens for n in model.count_tokens(queries))
        results[name] = _result(task, rows, told, truncated, recall, draws, seed)
        _show(name, results[name])
    missing = loco.absent(root)
    choice = default_mode(results) if model is not None else None
    target = Path(out) if out is not None else run_folder / "evaluation.json"
    report = {
        "encoder": None
        if model is None
        else {"path": encoder, "sha256": fingerprint_digest(model.fingerprint), **model.fingerprint},
        "tasks": {name: _plain(result) for name, result in results.items()},
        "absent": missing,
        "default": choice,
    }
    atomic_write(target, json.dumps(report, indent=1) + "\n")
    for text in _summary(results, missing, choice):
        print(text)
    print(target)
    return results


def default_mode(results: dict[str, Result]) -> str:
    """The way of search that these tables speak for: bm25, dense or hybrid.

    Hybrid if its nDCG@10 is above BM25's by an interval above 0 on some task and below it by more than .01 on none;
    else whichever of BM25 and dense has the greater mean over tasks.
    """
    gains = [r.differences[HYBRID] for r in results.values()]
    if any(g.low > 0 for g in gains) and all(g.mean >= -TOLERATED for g in gains):
        return DEFAULTS[HYBRID]
    means = {row: np.mean([r.rows[row].ndcg.mean for r in results.values()]) for row in (BM25_FULL, ANY)}
    return DEFAULTS[max(means, key=lambda row: float(means[row]))]


def _check_fusion(fusion: dict[str, Any]) -> None:
    k, weights = fusion.get("k"), fusion.get("weights")
    numbers = [k, *weights] if isinstance(weights, list) and len(weights) == 2 else [None]
    if not all(isinstance(x, int | float) and x >= 0 for x in numbers) or not any(numbers[1:]):
        raise UserError(f"fusion={fusion}: k from 0 on and two weights, of BM25 and of the encoder, are accepted")


def _chosen(root: Path, tasks: list[str] | None) -> list[str]:
    there = loco.found(root)
    if tasks is None:
        if not there:
            raise UserError(
                f"data={root}: no task is there; files like queries/qmsum_test.jsonl with documents/qmsum_test.jsonl"
                " are accepted, or the data sets LoCoV1-Queries and LoCoV1-Documents as Hugging Face has them"
            )
        return there
    if not isinstance(tasks, list) or not tasks:
        raise UserError(f"tasks={tasks}: a list of names is accepted, for example tasks=[{', '.join(there[:2])}]")
    if unknown := [t for t in tasks if t not in there]:
        raise UserError(f"tasks: {', '.join(unknown)} are not in {root}; there are: {', '.join(there)}")
    return tasks


def _dense(
    model: SentenceEncoder, queries: Sequence[str], texts: Sequence[str], folder: Path, name: str
) -> dict[str, list[Ranking]]:
    """Rankings by the encoder. Truncation is the subject here and counted in the report, so nothing warns."""
    asked = encode_queries_cached(model, queries, folder)
    documents = _encoded(model, texts, folder, name)
    return {
        FIRST: ranking.by_first_window(asked, documents),
        BEST: ranking.by_best_window(asked, documents),
        WHOLE: ranking.by_whole(asked, documents),
        ANY: ranking.by_any_vector(asked, documents),
    }


def _encoded(model: SentenceEncoder, texts: Sequence[str], folder: Path, name: str) -> list[Encoding]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,}/{task.total:,} tokens"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        line = bar.add_task(name, total=0, visible=False)

        def tell(done: int, known: int) -> None:
            bar.update(line, completed=done, total=known, visible=True)

        return encode_cached(model, texts, folder, policy="chunk", progress=tell)


def _result(
    task: Task,
    rows: dict[str, list[Ranking]],
    told: provenance.Provenance,
    truncated: int,
    depths: Sequence[int],
    draws: int,
    seed: int,
) -> Result:
    numbers = {pid: i for i, pid in enumerate(task.documents)}
    relevant = [{numbers[pid] for pid in q.relevant} for q in task.queries]
    groups = [q.relevant[0] for q in task.queries]
    lengths = evidence.lengths(task)
    positions, estimated = evidence.positions(task)

    def interval(values: Sequence[float]) -> Interval:
        return metrics.bootstrap(values, groups, draws=draws, seed=seed)

    scores = {}
    for row, rankings in rows.items():
        pairs = list(zip(rankings, relevant, strict=True))
        values = [metrics.ndcg(r, wanted) for r, wanted in pairs]
        scores[row] = Score(
            interval(values),
            {k: interval([metrics.recall(r, wanted, k) for r, wanted in pairs]) for k in depths},
            interval([metrics.reciprocal_rank(r, wanted) for r, wanted in pairs]),
            evidence.by_bucket(values, lengths, evidence.LENGTH_NAMES),
            evidence.by_bucket(values, positions, evidence.QUARTERS),
            values,
        )
    base = np.array(scores[BM25_FULL].values)
    differences = {
        row: interval(list(np.array(score.values) - base)) for row, score in scores.items() if row != BM25_FULL
    }
    setting = "in-domain" if provenance.in_domain(task.name, told) else "zero-shot"
    return Result(
        len(task.queries),
        len(task.documents),
        dict(task.dropped),
        setting,
        provenance.contamination(task, told),
        truncated,
        estimated,
        scores,
        differences,
    )


def _plain(result: Result) -> dict[str, Any]:
    plain = asdict(result)
    for score in plain["rows"].values():
        score["ndcg@10"] = score.pop("ndcg")
        score["recall"] = {str(k): v for k, v in score["recall"].items()}
        del score["values"]
    return plain


def _show(name: str, result: Result) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{name}: {result.queries:,} queries, {result.documents:,} documents, {result.setting}"
    table = Table("row", "nDCG@10", "95%", "minus BM25", "95%", "MRR", title=title)
    for k in next(iter(result.rows.values())).recall:
        table.add_column(f"recall@{k}")
    for row, score in result.rows.items():
        over = result.differences.get(row)
        gain = ("", "") if over is None else (f"{over.mean:+.3f}", f"{over.low:+.3f} {over.high:+.3f}")
        cells = (
            f"{score.ndcg.mean:.3f}",
            f"{score.ndcg.low:.3f} {score.ndcg.high:.3f}",
            *gain,
            f"{score.mrr.mean:.3f}",
        )
        table.add_row(row, *cells, *(f"{i.mean:.3f}" for i in score.recall.values()))
    buckets = Table("nDCG@10 by", title=None)
    some = next(iter(result.rows.values()))
    for name_, (_, count) in {**some.by_length, **some.by_position}.items():
        buckets.add_column(f"{name_} ({count:,})")
    for row, score in result.rows.items():
        buckets.add_row(row, *(f"{mean:.3f}" for mean, _ in {**score.by_length, **score.by_position}.values()))
    console = Console(width=None if Console().is_terminal else 140)
    console.print(table)
    console.print(buckets)
    print(
        "buckets: characters of the answering document; where in it the evidence begins"
        f" ({result.estimated_positions:,} of {result.queries:,} estimated by BM25 over passages)."
        f" contamination: {result.contamination}."
        f" queries cut by the encoder: {result.truncated_queries:,}"
        + "".join(f". dropped: {count:,} {why}" for why, count in result.dropped.items())
    )


def _summary(results: dict[str, Result], missing: Sequence[str], choice: str | None) -> list[str]:
    said = []
    for setting in ("zero-shot", "in-domain"):
        inside = [r for r in results.values() if r.setting == setting]
        if inside:
            means = {row: np.mean([r.rows[row].ndcg.mean for r in inside]) for row in inside[0].rows}
            listed = "; ".join(f"{row} {mean:.3f}" for row, mean in means.items())
            said.append(f"{setting}, mean nDCG@10 of {len(inside)} tasks: {listed}")
    if missing:
        said.append(f"not evaluated, {len(missing)} of the 12 tasks of LoCoV1 are not there: {', '.join(missing)}")
    if choice is not None:
        said.append(f"search by default, as these tables say: {choice}")
    return said
