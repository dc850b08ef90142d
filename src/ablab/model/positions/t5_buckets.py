"""T5's relative position bias."""

from __future__ import annotations

import torch
from torch import nn

from ablab.core.rng import Draw
from ablab.model.positions.position import Position
from ablab.model.shape import Shape

FARTHEST = 1 << 20  # a table of distances is kept whole: beyond a million tokens it would be all that fits
MOST_BUCKETS = 1 << 9


class T5Buckets(Position):
    """A learned bias for every bucket of distances and every head.

    The table starts at N(0, init_std^2); T5 shares one among its layers, here each layer has its own. The bias is added
    after the scale, as everywhere here; T5 itself does not scale. ValueError where there are fewer than 2 buckets or more
    than 512, and where max_distance leaves the logarithmic ones no room or is above 2^20.

    n_buckets: the first half are distances 0, 1, 2, ...; the others widen logarithmically up to max_distance, and the last
        holds everything beyond
    max_distance (tokens): from here on all distances share the last bucket
    """

    source = "Raffel et al. 2020 (T5), arXiv 1910.10683"
    pairwise = True
    relative = True
    bucket_N: torch.Tensor

    def __init__(self, shape: Shape, *, n_buckets: int = 32, max_distance: int = 128) -> None:
        super().__init__()
        if n_buckets < 2:
            raise ValueError(f"n_buckets is {n_buckets}, but near and far need one each; give 2 or more")
        if n_buckets > MOST_BUCKETS:
            raise ValueError(f"n_buckets is {n_buckets}, too many to learn one by one; give at most {MOST_BUCKETS}")
        if max_distance <= n_buckets // 2:
            raise ValueError(
                f"max_distance is {max_distance}, but {n_buckets // 2} of the {n_buckets} buckets hold the distances "
                f"below {n_buckets // 2}; give max_distance > {n_buckets // 2}"
            )
        if max_distance > FARTHEST:
            raise ValueError(
                f"max_distance is {max_distance}, but the bucket of every distance is looked up in a table; give at "
                f"most {FARTHEST}"
            )
        self.std, self.n_buckets, self.max_distance = shape.init_std, n_buckets, max_distance
        self.table_NH = nn.Parameter(torch.empty(n_buckets, shape.n_heads))
        self.register_buffer("bucket_N", torch.empty(max_distance + 1, dtype=torch.int64), persistent=False)

    def init(self, draw: Draw) -> None:
        draw.normal_(self.table_NH, "table_NH", self.std)
        self.bucket_N.copy_(torch.tensor(buckets(self.n_buckets, self.max_distance)))

    def bias(self, p_query: torch.Tensor, p_key: torch.Tensor) -> torch.Tensor:
        distance_BTS = (p_query[:, :, None] - p_key[:, None, :]).clamp(0, self.max_distance)
        # Head by head: the gradient of an embedding lookup, or of indexing, takes two to three times as long.
        bias = self.table_NH.t().contiguous().index_select(1, self.bucket_N[distance_BTS].flatten())
        out: torch.Tensor = bias.unflatten(1, distance_BTS.shape).transpose(0, 1)
        return out


def buckets(n_buckets: int, max_distance: int) -> list[int]:
    """Return the bucket of every distance up to max_distance; in integers, so that no logarithm rounds across an edge.

    With e = n_buckets // 2 exact ones and m others, distance d >= e is in bucket e + floor(m ln(d/e) / ln(M/e)).
    """
    exact, others = n_buckets // 2, n_buckets - n_buckets // 2
    of_distance = list(range(exact))
    for k in range(1, others):  # bucket e + k begins where (d/e)^m >= (M/e)^k
        edge, above = len(of_distance), max_distance  # by halving: at the farthest distance every bucket has begun
        while edge < above:
            middle = (edge + above) // 2
            if middle**others * exact**k >= max_distance**k * exact**others:
                above = middle
            else:
                edge = middle + 1
        of_distance += [exact + k - 1] * (edge - len(of_distance))
    return of_distance + [n_buckets - 1] * (max_distance + 1 - len(of_distance))
