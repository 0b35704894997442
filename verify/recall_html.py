"""The page about recall: one HTML file with its plots inside, readable offline, without scripts. Pure.

Keys of rows are on it, as in every report; values are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from verify.ranking import THRESHOLDS, tied
from verify.recall import Answer, Scores, VectorRecall

_WORST = 5
_BARS = 10
_POINTS = 4_000
_WIDTH, _HEIGHT, _EDGE = 460, 260, 40
_NAMES: Mapping[str, str] = {
    "recall_mean": "recall@{k}, mean",
    "recall_median": "recall@{k}, median",
    "recall_min": "recall@{k}, lowest",
    "recall_p5": "recall@{k}, 5th percentile",
    "spearman": "Spearman of the scores",
    "ndcg": "NDCG@10",
    "mrr": "MRR",
}
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em;
       color: #1b1f24; background: #fff; }
h1 { font-size: 1.5em; } h2 { font-size: 1.2em; margin-top: 2em; } h3 { font-size: 1em; }
table { border-collapse: collapse; margin: .5em 0; }
th, td { padding: .2em .8em; text-align: right; border-bottom: 1px solid #d8dde3; }
th:first-child, td:first-child { text-align: left; }
.bad { color: #b3261e; font-weight: 600; } .good { color: #1a7f37; }
.plots { display: flex; flex-wrap: wrap; gap: 1em; } figure { margin: 0; }
figcaption { color: #57606a; font-size: .9em; }
.pair { display: flex; flex-wrap: wrap; gap: 2em; } .pair td { font-variant-numeric: tabular-nums; }
svg text { font: 11px system-ui, sans-serif; fill: #57606a; }
"""


def page(title: str, found: Sequence[VectorRecall]) -> str:
    """The whole page."""
    sections = "".join(map(_section, found)) or "<p>No vector column could be asked with.</p>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1>"
        "<p>Exact nearest neighbours from pgvector, beside Qdrant's answers.</p>"
        f"{sections}</body></html>\n"
    )


def _section(one: VectorRecall) -> str:
    verdict = (
        '<span class="good">all thresholds reached</span>'
        if not one.missed
        else f'<span class="bad">{escape("; ".join(one.missed))}</span>'
    )
    worst = sorted(one.answers, key=lambda answer: answer.index_measures.recall)[:_WORST]
    return (
        f"<h2>{escape(one.table)}: vector {escape(one.vector)}</h2>"
        f"<p>{len(one.answers)} queries, {escape(one.distance)}, k = {one.k}: {verdict}</p>"
        f"{_summary(one)}"
        f'<div class="plots">{_histogram(one)}{_scatter(one)}</div>'
        f"<h3>The queries with the lowest recall</h3>"
        f"{''.join(_side_by_side(one, answer) for answer in worst)}"
    )


def _summary(one: VectorRecall) -> str:
    rows = []
    for name, least in THRESHOLDS.items():
        index, exact = one.index[name], one.exact[name]
        kind = "good" if index is None or index >= least else "bad"
        rows.append(
            f"<tr><td>{escape(_NAMES[name].format(k=one.k))}</td>"
            f'<td class="{kind}">{_told(index, 3)}</td><td>{_told(exact, 3)}</td>'
            f"<td>{least:.2f}</td></tr>"
        )
    return (
        "<table><tr><th></th><th>index (HNSW)</th><th>exact = true</th><th>at least</th></tr>"
        + "".join(rows)
        + "</table>"
    )


def _told(measure: float | None, digits: int) -> str:
    return "-" if measure is None else f"{measure:.{digits}f}"


# --- plots ---------------------------------------------------------------------------------------


def _histogram(one: VectorRecall) -> str:
    """How many queries have which recall."""
    counts = [0] * (_BARS + 1)
    for answer in one.answers:
        counts[round(answer.index_measures.recall * _BARS)] += 1
    most = max(counts)
    step = (_WIDTH - 2 * _EDGE) / len(counts)
    parts: list[str] = []
    for number, count in enumerate(counts):
        height = (_HEIGHT - 2 * _EDGE) * count / most
        left = _EDGE + number * step
        top = _HEIGHT - _EDGE - height
        label = f"{number / _BARS:.1f}"
        parts.append(
            f'<rect x="{left + 2:.1f}" y="{top:.1f}" width="{step - 4:.1f}" height="{height:.1f}" '
            f'fill="#4c78a8"><title>recall {label}: {count}</title></rect>'
            f'<text x="{left + step / 2:.1f}" y="{_HEIGHT - _EDGE + 14}" '
            f'text-anchor="middle">{label}</text>'
        )
        if count:
            parts.append(
                f'<text x="{left + step / 2:.1f}" y="{top - 4:.1f}" '
                f'text-anchor="middle">{count}</text>'
            )
    return _figure(parts, f"Queries by recall@{one.k}, asked as a user asks")


def _scatter(one: VectorRecall) -> str:
    """Each neighbour that both sides found: its score from pgvector, and from Qdrant."""
    pairs = [
        (answer.wanted[identity], score)
        for answer in one.answers
        for identity, score in answer.index.items()
        if identity in answer.wanted
    ]
    pairs = pairs[:: max(1, len(pairs) // _POINTS)]
    if not pairs:
        return _figure([], "No neighbour was found by both sides")
    low = min(min(pair) for pair in pairs)
    high = max(max(pair) for pair in pairs)
    span = (high - low) or 1.0

    def across(value: float) -> float:
        return _EDGE + (_WIDTH - 2 * _EDGE) * (value - low) / span

    def up(value: float) -> float:
        return _HEIGHT - _EDGE - (_HEIGHT - 2 * _EDGE) * (value - low) / span

    parts = [
        f'<line x1="{across(low):.1f}" y1="{up(low):.1f}" x2="{across(high):.1f}" '
        f'y2="{up(high):.1f}" stroke="#b0b7bf"/>'
    ]
    parts += [
        f'<circle cx="{across(left):.1f}" cy="{up(right):.1f}" r="2" fill="#e45756" '
        'fill-opacity="0.5"/>'
        for left, right in pairs
    ]
    for value in (low, high):
        parts.append(
            f'<text x="{across(value):.1f}" y="{_HEIGHT - _EDGE + 14}" '
            f'text-anchor="middle">{value:.3g}</text>'
        )
    return _figure(parts, "Scores: pgvector across, Qdrant upwards; on the line they are the same")


def _figure(parts: Iterable[str], caption: str) -> str:
    axes = (
        f'<path d="M{_EDGE} {_EDGE / 2} V{_HEIGHT - _EDGE} H{_WIDTH - _EDGE / 2}" '
        'fill="none" stroke="#b0b7bf"/>'
    )
    return (
        f'<figure><svg width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="{escape(caption)}">{axes}{"".join(parts)}</svg>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


# --- side by side --------------------------------------------------------------------------------


def _side_by_side(one: VectorRecall, answer: Answer) -> str:
    measures = answer.index_measures
    return (
        f"<p><b>{escape(answer.query)}</b>: recall {measures.recall:.2f}, NDCG {measures.ndcg:.2f}, "
        f"Spearman {_told(measures.spearman, 2)}; exact = true: {answer.exact_measures.recall:.2f}</p>"
        '<div class="pair">'
        + _list("pgvector, exact", one, answer.wanted, answer.index)
        + _list("Qdrant", one, answer.index, answer.wanted)
        + "</div>"
    )


def _list(title: str, one: VectorRecall, shown: Scores, other: Scores) -> str:
    last = list(other.values())[-1:]
    rows = "".join(
        f'<tr class="{"" if identity in other or any(tied(score, s) for s in last) else "bad"}">'
        f"<td>{place}</td>"
        f"<td>{escape(one.keys.get(identity, f'point {identity}'))}</td><td>{score:.6g}</td></tr>"
        for place, (identity, score) in enumerate(shown.items(), 1)
    )
    return f"<table><tr><th>{escape(title)}</th><th>key</th><th>score</th></tr>{rows}</table>"
