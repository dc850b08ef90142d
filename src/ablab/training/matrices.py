"""Updates of matrices, batched by shape: gather gradients, update a stack of equals, scatter. The rest goes to AdamW.

A parameter (R, C) is one matrix, a parameter (n, R, C) is n of them. All matrices of one shape and type share one stack of
state, so that the number of operations of a step depends on the number of shapes, not of matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ablab.runtime.ranks import ALONE, Ranks
from ablab.training.orthogonal import chunk
from ablab.training.roles import Guarded, Rates


class Update(Protocol):
    """A rule for a stack of equal matrices."""

    def state(self, rows: int, cols: int) -> dict[str, tuple[int, ...]]:
        """Name and shape, for one matrix, of everything remembered; it starts at zero."""
        ...

    def shrink(self, lr: float, decay: float, rows: int, cols: int) -> tuple[float, bool]:
        """Return the share of a weight that decay takes in one step, and whether only where the step shrinks the weight too."""
        ...

    def __call__(self, grad_nRC: Tensor, state: Mapping[str, Tensor], spent: float) -> Tensor:
        """Compute the step against which -lr is taken, (n, R, C); moves `state` in place and leaves the gradient alone."""
        ...


class Stack:
    """All parameters of one shape (R, C) and type, as one stack: its state, and where in it each parameter lies."""

    def __init__(self, rows: int, cols: int, members: list[nn.Parameter], update: Update) -> None:
        self.rows, self.cols, self.members = rows, cols, members
        self.counts = [p.numel() // (rows * cols) for p in members]
        first, total = members[0], sum(self.counts)
        wide = torch.promote_types(first.dtype, torch.float32)  # bf16 weights still have fp32 state
        shapes = update.state(rows, cols)
        self.state = {k: torch.zeros((total, *s), dtype=wide, device=first.device) for k, s in shapes.items()}
        self.views: list[dict[str, Tensor]] = []
        self.starts: list[int] = []
        at = 0
        for p, count in zip(members, self.counts, strict=True):
            self.starts.append(at)
            where = at if p.dim() == 2 else slice(at, at + count)
            self.views.append({k: stack[where] for k, stack in self.state.items()})
            at += count
        # A row of elementwise work reads the type of the state, so chunks are sized by it.
        self.chunk = chunk(rows, cols, torch.empty(0, dtype=wide, device=first.device))
        self.group, self.owned = ALONE, [range(total)]  # the matrices that each process of the group updates

    def adopt(self, states: Mapping[Tensor, dict[str, Tensor]]) -> None:
        """Take in state that was put there by others (a checkpoint), and leave views of the stack in its place."""
        for p, views in zip(self.members, self.views, strict=True):
            mine = states[p]
            for key, view in views.items():
                if (given := mine.get(key)) is not view:
                    if given is not None:
                        view.copy_(given)
                    mine[key] = view

    def chunks(self) -> Iterator[tuple[int, int, list[tuple[int, int, int]]]]:
        """Yield start, stop, and the parts of parameters (index, first, last matrix) of every chunk.

        Of this process's matrices. A parameter without a gradient is passed over: neither its weights nor its state move.
        """
        own = self.owned[self.group.rank]
        parts: list[tuple[int, int, int]] = []
        start = filled = 0
        for i, p in enumerate(self.members):
            first, end = self._within(i, own)
            if p.grad is None or first >= end:
                if parts:
                    yield start, start + filled, parts
                parts, filled = [], 0
                continue
            while first < end:
                if not parts:
                    start = self.starts[i] + first
                last = min(end, first + self.chunk - filled)
                parts.append((i, first, last))
                filled += last - first
                first = last
                if filled == self.chunk:
                    yield start, start + filled, parts
                    parts, filled = [], 0
        if parts:
            yield start, start + filled, parts

    def step(self, update: Update, *, lr: float, decay: float, spent: float) -> None:
        """Update every member that has a gradient, once."""
        share, cautious = update.shrink(lr, decay, self.rows, self.cols)
        for start, stop, parts in self.chunks():
            state = {k: stack[start:stop] for k, stack in self.state.items()}
            step_nRC = update(self._gather(parts, next(iter(state.values())).dtype), state, spent)
            weights = [_rows(self.members[i], first, last) for i, first, last in parts]
            steps = step_nRC.flatten(0, 1).split([len(rows) for rows in weights])
            if share and cautious:
                shrunk = torch._foreach_mul(weights, steps)  # to 1 where the step shrinks the weight, or there is none
                torch._foreach_sign_(shrunk)
                torch._foreach_add_(shrunk, 1)
                torch._foreach_clamp_max_(shrunk, 1)
                torch._foreach_mul_(shrunk, weights)
                torch._foreach_add_(weights, shrunk, alpha=-share)
            elif share:
                torch._foreach_mul_(weights, 1 - share)
            torch._foreach_add_(weights, steps, alpha=-lr)

    def share(self) -> None:
        """Hand the weights that this process has updated to the others of the group, and take theirs."""
        if self.group.world == 1:
            return
        parts = [self._weights(own) for own in self.owned]
        mine = parts[self.group.rank]
        flat = torch.cat([one.flatten() for one in mine]) if mine else self.members[0].new_empty(0)
        for weights, theirs in zip(parts, self._lined_up(flat, self.rows * self.cols), strict=True):
            pieces = theirs.split([one.numel() for one in weights])
            for weight, piece in zip(weights, pieces, strict=True):
                weight.copy_(piece.view(weight.shape))

    def gather(self) -> None:
        """Take the state of matrices that other processes update: what is here of it has stood still since it was dealt."""
        if self.group.world == 1:
            return
        for state in self.state.values():
            own = self.owned[self.group.rank]
            found = self._lined_up(state[own.start : own.stop], state[0].numel())
            for theirs, values in zip(self.owned, found, strict=True):
                state[theirs.start : theirs.stop] = values.view(-1, *state.shape[1:])

    def _lined_up(self, mine: Tensor, each: int) -> list[Tensor]:
        """Return what every process has of its matrices, `each` numbers of one."""
        return self.group.lined_up(mine, [len(own) * each for own in self.owned])

    def _within(self, i: int, own: range) -> tuple[int, int]:
        """Return first and end of the matrices of the i-th parameter that lie in `own`; nothing where first is not below."""
        return max(0, own.start - self.starts[i]), min(self.counts[i], own.stop - self.starts[i])

    def _weights(self, own: range) -> list[Tensor]:
        """Return the weights of the matrices in `own`, of each parameter as rows."""
        bounds = ((p, *self._within(i, own)) for i, p in enumerate(self.members))
        return [_rows(p, first, end) for p, first, end in bounds if first < end]

    def _gather(self, parts: list[tuple[int, int, int]], kind: torch.dtype) -> Tensor:
        rows: list[Tensor] = []
        for i, first, last in parts:
            grad = self.members[i].grad
            assert grad is not None  # chunks pass over such parameters
            rows.append(_rows(grad, first, last))
        joined = rows[0] if len(rows) == 1 else torch.cat(rows)
        return joined.to(kind).view(-1, self.rows, self.cols)


class Matrices(Guarded):
    """Ranks `matrix` by `update`, every other by AdamW, fused. State is fp32 (fp64 for fp64 weights).

    `taper` = (from, to): every decay keeps its size until that fraction of training, then falls in a line to the share `to`.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        update: Update,
        *,
        betas: tuple[float, float],
        eps: float,
        taper: tuple[float, float] | None,
    ) -> None:
        self.update, self.taper = update, taper
        rest = [group for group in groups if group["role"] != "matrix"]
        super().__init__(groups, {})
        self.rest = torch.optim.AdamW(rest, betas=betas, eps=eps, fused=True) if rest else None
        self.stacks: list[tuple[dict[str, Any], Stack]] = []
        for group in self.param_groups:
            by_shape: dict[tuple[torch.Size, torch.dtype, torch.device], list[nn.Parameter]] = {}
            for p in group["params"] if group["role"] == "matrix" else ():
                by_shape.setdefault((p.shape[-2:], p.dtype, p.device), []).append(p)
            for ((rows, cols), *_), members in by_shape.items():
                self.stacks.append((group, Stack(rows, cols, members, update)))

    @torch.no_grad()
    def move(self) -> None:
        """Update once from the gradients at hand."""
        for group in self.param_groups:
            group["weight_decay"] = group["decay"] * self._left(group["spent"])
        for group, stack in self.stacks:
            stack.adopt(self.state)
            stack.step(self.update, lr=group["lr"], decay=group["weight_decay"], spent=group["spent"])
            stack.share()
        if self.rest is not None:
            self.rest.state = self.state
            self.rest.step()

    def deal(self, group: Ranks) -> None:
        """Share whole matrices out to the processes of a group, so that each multiplies as much. All do the rest."""
        stacks = [stack for _, stack in self.stacks]
        sizes = [sum(stack.counts) for stack in stacks]
        costs = [stack.rows * stack.cols * min(stack.rows, stack.cols) for stack in stacks]
        for stack, owned in zip(stacks, dealt(sizes, costs, group.world), strict=True):
            stack.group, stack.owned = group, owned

    @torch.no_grad()
    def gather(self) -> None:
        """Have the state of all matrices here: a checkpoint of what lies here alone would go on wrongly, without a word."""
        for _, stack in self.stacks:
            stack.adopt(self.state)
            stack.gather()

    def _left(self, spent: float) -> float:
        """Return the share of the decay that is left when `spent` of training is behind."""
        if self.taper is None or spent <= self.taper[0]:
            return 1.0
        begin, end = self.taper
        return 1 - (1 - end) * (spent - begin) / (1 - begin)


def dealt(sizes: Sequence[int], costs: Sequence[float], world: int) -> list[list[range]]:
    """Share stacks of so many matrices, of such a cost each, to `world` processes: of each stack a run of neighbours.

    Each has a `world`-th of every stack; what is left over goes, dear ones first, to whoever has least.
    """
    loads, out = [0.0] * world, [list[range]() for _ in sizes]
    for i in sorted(range(len(sizes)), key=lambda i: -costs[i]):
        each, over = divmod(sizes[i], world)
        more = sorted(range(world), key=lambda rank: loads[rank])[:over]
        at = 0
        for rank in range(world):
            count = each + (rank in more)
            out[i].append(range(at, at + count))
            loads[rank] += count * costs[i]
            at += count
    return out


def build(
    rates: Rates,
    update: Update,
    parameters: Mapping[str, nn.Parameter],
    roles: Mapping[str, str],
    *,
    betas: tuple[float, float],
    eps: float,
    taper: tuple[float, float] | None,
) -> Matrices:
    """Build the optimizer over `parameters`, each exactly once, by role.

    Raises ValueError where parameters and roles do not name the same things, and for a matrix of more than three dimensions.
    """
    for name, role in roles.items():
        if role == "matrix" and name in parameters and parameters[name].dim() > 3:
            fault = f"{name} has {parameters[name].dim()} dimensions"
            raise ValueError(f"{fault}; give it as (d_out, d_in) or as a stack (n, d_out, d_in)")
    return Matrices(rates.groups(parameters, roles), update, betas=betas, eps=eps, taper=taper)


def _rows(tensor: Tensor, first: int, last: int) -> Tensor:
    """Join matrices `first` to `last` of a parameter or its gradient as rows of one matrix, ((last - first) R, C)."""
    return tensor if tensor.dim() == 2 else tensor[first:last].flatten(0, 1)
