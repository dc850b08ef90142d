"""Counts of n-grams in text that has been read, and the distribution that they make of a model's."""

from __future__ import annotations

import numpy as np


class Grams:
    """n-grams of orders 1 to max_order over documents laid end to end, with absolute discounting.

    tokens_T int64, first_T: where each token's document begins; scope_T: n-grams are counted together where it is equal.
    Order m has m - 1 tokens of context, none of another document. With the model as order 0,

        p_m(w) = (max(c(h, w) - D, 0) + D types(h) p_m-1(w)) / c(h), and p_m-1(w) where c(h) = 0:

    each sums to 1 if the one below does. So p(w) = A(w) + B p_model(w) with sum A + B = 1; B depends on the context
    alone. Names of n-grams are made beforehand (equal ones have equal names), counts come from `learn` alone.
    Source: Ney, Essen and Kneser 1994, absolute discounting.
    """

    def __init__(
        self,
        tokens_T: np.ndarray,
        first_T: np.ndarray,
        scope_T: np.ndarray,
        *,
        max_order: int,
        discount: float,
        vocab_size: int,
    ) -> None:
        self.discount, self.vocab_size = discount, vocab_size
        place_T = np.arange(len(tokens_T)) - first_T
        context_T = scope_T.astype(np.int32)  # name of what stands before a token, -1 where it would cross a document
        self.orders: list[_Order] = []
        for order in range(1, max_order + 1):
            known_T = place_T >= order - 1
            self.orders.append(made := _Order(context_T, tokens_T, known_T, vocab_size))
            context_T = np.roll(made.gram_T, 1)  # the first token of all has no order above 1

    def mix(self, at_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return A of the tokens at these places, and B, both float64 (N,), from what was learned up to now."""
        a_N, b_N = np.zeros(len(at_N)), np.ones(len(at_N))
        for order in self.orders:
            context_N, gram_N = order.context_T[at_N], order.gram_T[at_N]
            total_N = np.where(context_N >= 0, order.total[context_N], 0)
            seen_N, total_N = total_N > 0, np.maximum(total_N, 1)
            back_N = self.discount * order.types[context_N] / total_N
            own_N = np.maximum(order.count[gram_N] - self.discount, 0) / total_N
            a_N, b_N = np.where(seen_N, own_N + back_N * a_N, a_N), np.where(seen_N, back_N * b_N, b_N)
        return a_N, b_N

    def spread(self, at: int) -> tuple[np.ndarray, float]:
        """Return A of every token of the vocabulary at one place (V,), and B."""
        a_V, b = np.zeros(self.vocab_size), 1.0
        for order in self.orders:
            context = int(order.context_T[at])
            if context < 0 or not order.total[context]:
                continue
            back = self.discount * order.types[context] / order.total[context]
            (grams,) = np.nonzero((order.of_context == context) & (order.count > 0))
            a_V, b = back * a_V, back * b
            a_V[order.of_token[grams]] += (order.count[grams] - self.discount) / order.total[context]
        return a_V, float(b)

    def learn(self, at_N: np.ndarray) -> None:
        """Count the tokens at these places, each after its context."""
        for order in self.orders:
            gram_N = order.gram_T[at_N]
            gram_N = gram_N[gram_N >= 0]
            new = np.unique(gram_N)
            new = new[order.count[new] == 0]
            np.add.at(order.types, order.of_context[new], 1)
            np.add.at(order.count, gram_N, 1)
            np.add.at(order.total, order.of_context[gram_N], 1)


class _Order:
    """Names and counts of one order. Of each token: context_T and gram_T, -1 where it has none."""

    def __init__(self, context_T: np.ndarray, tokens_T: np.ndarray, known_T: np.ndarray, vocab_size: int) -> None:
        known_T = known_T & (context_T >= 0)
        pair = context_T[known_T].astype(np.int64) * vocab_size + tokens_T[known_T]
        names, number = np.unique(pair, return_inverse=True)
        self.context_T = np.where(known_T, context_T, -1).astype(np.int32)
        self.gram_T = np.full(len(tokens_T), -1, np.int32)
        self.gram_T[known_T] = number.reshape(-1)
        self.of_context, self.of_token = names // vocab_size, names % vocab_size
        self.count = np.zeros(max(1, len(names)), np.int64)
        contexts = 1 + int(context_T.max(initial=0))
        self.total, self.types = np.zeros(contexts, np.int64), np.zeros(contexts, np.int64)
