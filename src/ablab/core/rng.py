"""Named random streams: a draw depends on its name, never on what ran before.

Philox keyed by 128 bits of blake2b over (seed, name). Every parameter, data order, crop and probe has its own name, so
an arm that adds a part leaves every other draw unchanged (common random numbers). torch's CPU generator ignores seed
bits above 32, which is why draws come from numpy.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def key(seed: int, *name: str | int) -> int:
    """Make the 128-bit key of a stream; parts are joined unambiguously (length-prefixed)."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (seed, *name):
        text = str(part).encode()
        digest.update(len(text).to_bytes(8, "little") + text)
    return int.from_bytes(digest.digest(), "little")


def stream(seed: int, *name: str | int) -> np.random.Generator:
    """Open the stream `name` under `seed`; the same name always starts the same draws."""
    return np.random.Generator(np.random.Philox(key=key(seed, *name)))


class Draw:
    """Fills the parameters of one module, each from its own stream `(seed, "init", path.parameter)`.

    `salt` is part of the seed's identity (an A/A arm draws from other streams under the same seed). `orthogonal`: matrices
    start orthogonal instead of normal.
    """

    def __init__(self, seed: int, path: str = "", salt: str = "", orthogonal: bool = False) -> None:
        self.seed, self.path, self.salt, self.orthogonal = seed, path, salt, orthogonal

    def at(self, path: str) -> Draw:
        """Return the same seed and salt at another module path."""
        return Draw(self.seed, path, self.salt, self.orthogonal)

    def stream(self, name: str) -> np.random.Generator:
        """Open the stream of parameter `name` of this module."""
        full = f"{self.path}.{name}" if self.path else name
        return stream(self.seed, "init", *([self.salt] if self.salt else []), full)

    def normal_(self, tensor: torch.Tensor, name: str, std: float) -> None:
        """Fill `tensor` with N(0, std^2), drawn on the CPU in fp32."""
        import torch

        values = self.stream(name).standard_normal(tuple(tensor.shape), dtype=np.float32) * np.float32(std)
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(np.asarray(values)))

    def uniform_(self, tensor: torch.Tensor, name: str, bound: float) -> None:
        """Fill `tensor` with draws from [-bound, bound), made on the CPU in fp32."""
        import torch

        values = (2 * self.stream(name).random(tuple(tensor.shape), dtype=np.float32) - 1) * np.float32(bound)
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(values))

    def matrix_(self, tensor: torch.Tensor, name: str, std: float) -> None:
        """Fill a learned matrix (d_out, d_in): N(0, std^2), or the orthogonal factor of that draw (std 0 stays zero).

        The orthogonal one has singular values 1 whatever std is (Saxe et al. 2014, 1312.6120).
        """
        import torch

        self.normal_(tensor, name, std)
        if self.orthogonal and std > 0:
            tall = tensor.shape[0] >= tensor.shape[1]
            with torch.no_grad():
                q, r = torch.linalg.qr((tensor if tall else tensor.T).double())
                q = q * r.diagonal().sign()  # else the factor would depend on the library's sign convention
                tensor.copy_(q if tall else q.T)
