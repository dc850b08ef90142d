"""The token vectors alone."""

from __future__ import annotations

from ablab.model.embeddings.embedding import Embedding


class Plain(Embedding):
    """The first layer reads the token vectors as they are."""

    source = "the plain form"
    reach = 0
