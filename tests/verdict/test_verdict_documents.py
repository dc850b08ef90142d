"""The spread over documents: its formula, what it covers, and where it refuses a word."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bench.verdict_simulations import document_coverage
from made_studies import near

from ablab.verdict import DocumentScores
from ablab.verdict.documents import FEWEST, effective, spread

LIBRARY = (7837, 115, 7526, 10993, 3432, 5613, 67, 162565, 991, 6926, 3113, 1073, 12404, 12423, 1708, 41087, 465, 7682)


def test_residuals_are_divided_by_one_minus_their_leverage():
    w, e = np.array([5.0, 3.0, 2.0]), np.array([0.5, 0.1, -0.2])
    found = spread(e, 0.04, w)
    r = [(0.5 - 0.2) / 0.5, (0.1 - 0.12) / 0.7, (-0.2 - 0.08) / 0.8]
    assert found.error == near(math.sqrt(sum(x * x for x in r)) / 10)
    assert (found.effective, found.df, found.largest) == near((100 / 38, 100 / 38 - 1, 0.5))


def test_equal_documents_give_the_plain_standard_error():
    e = np.random.default_rng(1).normal(size=40)
    found = spread(e, float(e.mean()), np.ones(40))
    assert found.error == near(e.std(ddof=1) / math.sqrt(40) * math.sqrt(40 / 39))
    assert (found.count, found.df) == (40, near(39))


def test_groups_are_added_up_before_anything_is_taken_as_independent():
    rng = np.random.default_rng(2)
    w, e, groups = rng.uniform(1, 9, 60), rng.normal(size=60), np.repeat(np.arange(30) * 7, 2)
    delta = float(e.sum() / w.sum())
    pairs = spread(e.reshape(30, 2).sum(1), delta, w.reshape(30, 2).sum(1))
    found = spread(e, delta, w, groups)
    assert (found.error, found.effective, found.count) == (near(pairs.error), near(pairs.effective), 30)
    assert found.said == "30 groups taken as independent"
    assert spread(e, delta, w, groups, "site").said == "30 groups by site taken as independent"
    few = spread(e, delta, w, groups // 14, "site").said
    assert few.startswith("no word over documents: one group by site is ") and ", 20 are needed" in few


@pytest.mark.parametrize("weights", [(3.0, 0.0, 0.0), (0.0, 0.0, 0.0), (4.0,)])
def test_one_document_of_weight_has_no_spread(weights):
    assert spread(np.ones(len(weights)), 1.0, np.array(weights)) is None


def test_eighteen_documents_of_which_one_is_most_of_the_text_are_refused():
    w = np.array(LIBRARY, float)
    assert effective(w) == near(2.83779)
    found = spread(w * 0.01 + 1, 0.01, w)
    assert not found.enough and found.df == near(1.83779)
    assert found.said == "no word over documents: one document is 57% of the text; 18 count as 2.8, 20 are needed"
    assert FEWEST == 20


def test_groups_must_be_one_per_document():
    with pytest.raises(ValueError, match="nats, tokens, bytes and groups must be vectors of one length"):
        DocumentScores([1.0, 2.0], [1, 2], [1, 2], [0])


@pytest.mark.parametrize(
    ("lengths", "floor"),
    [("lognormal 1.5", 0.93), ("lognormal 2.2", 0.93), ("equal", 0.93), ("library", 0.93)],
)
def test_the_interval_over_documents_covers(lengths, floor):
    """Of lognormal(1.5) lengths, M = 50, the interval with M - 1 degrees of freedom covered .87."""
    covered = document_coverage(lengths, studies=20_000, seed=4)
    assert floor <= covered <= 0.999


@pytest.mark.parametrize(("icc", "known", "low", "high"), [(0.1, True, 0.93, 0.97), (0.1, False, 0.6, 0.85)])
def test_clusters_must_be_known(icc, known, low, high):
    """Documents of one package are alike: groups make it right, and documents taken as independent do not."""
    assert low <= document_coverage("clustered", studies=2_000, seed=5, icc=icc, known=known) <= high
