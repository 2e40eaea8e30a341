"""A sample of the packaged cases may not become less accurate than it was.

``accuracy.json`` holds the figures; ``python tests/validation/test_accuracy.py REASON`` writes them
anew, with the reason for it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from cluster_sim.studies.validate import play, prepare
from cluster_sim.studies.validate_cases import read_cases
from cluster_sim.studies.validate_scores import Score, scorecard

GOLDEN = Path(__file__).with_name("accuracy.json")
LIMIT, ALONE = 40, 500
MODES = ("closed_loop", "offline", "static_batch")
MARGIN = 0.01  # by which the median error of a metric may grow
LEAST = 8  # cases of a metric that are worth a figure


def figures() -> dict[str, Score]:
    """Scores by mode and metric, and those of operators and collectives."""
    cases = read_cases([])
    runs = [case for case in cases if case.text("mode") in MODES and case.text("tp")]
    # How many of their drafts were accepted is not known.
    runs = [case for case in runs if not case.count("mtp_draft_tokens", 0)]
    alone = [case for case in cases if case.kind != "serving"]
    found: dict[str, Score] = {}
    for sample, dimension in (
        (prepare(runs, limit=LIMIT), "mode"),
        (prepare(alone, limit=ALONE), "kind"),
    ):
        card = scorecard([one for group in play(sample) for one in group])
        for value, metrics in card.breakdown[dimension].items():
            found |= {f"{value} {metric}": one for metric, one in metrics.items()}
    return {name: one for name, one in found.items() if one.n >= LEAST}


def figure(score: Score) -> float:
    """The median error, or of verdicts the share that is wrong."""
    if score.right is not None:
        return 1 - score.right
    assert score.median_ape is not None
    return score.median_ape


@pytest.fixture(scope="module")
def now() -> dict[str, Score]:
    return figures()


def test_a_sample_stays_accurate(now: dict[str, Score]) -> None:
    golden = json.loads(GOLDEN.read_text())["median_ape"]
    assert sorted(golden) == sorted(now)
    for metric, before in golden.items():
        median = figure(now[metric])
        assert median <= before + MARGIN, f"{metric}: {median:.3f}, it was {before:.3f}"


def test_the_sample_covers_most_of_what_is_scored(now: dict[str, Score]) -> None:
    wanted = {"closed_loop tpot_ms_p50", "closed_loop ttft_ms_p50", "offline output_tokens_per_s"}
    assert wanted <= set(now)


def main() -> None:
    """Write the figures anew."""
    medians = {metric: figure(found) for metric, found in figures().items()}
    text = json.dumps({"reason": " ".join(sys.argv[1:]), "median_ape": medians}, indent=1)
    GOLDEN.write_text(text + "\n")


if __name__ == "__main__":
    main()
