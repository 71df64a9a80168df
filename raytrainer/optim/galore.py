"""GaLore: the gradient of a matrix is projected to a low rank, and an optimizer works on that alone.

Zhao et al., arXiv 2403.03507. For W of shape [m, n] with gradient G, algorithm 2 keeps P, the leading ``rank`` singular
vectors of G on its shorter side, found anew every ``update_proj_gap`` steps. For m >= n: R = G P (P: [n, rank]), an
optimizer turns R into a step N, and W <- W - lr * scale * N P^T; for m < n the same from the left.

Any optimizer that works element by element, or on the matrix R, serves as the inner one. It steps a matrix of zeros of
the shape of R, whose change is the step; so its state is that of R, and the full gradient leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from raytrainer.optim.composed import Composed

MakeInner = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
PROJECTION = "projection"
STEP = "projection_step"


class GaLore(Composed):
    """An inner optimizer on projected gradients of target matrices, and on all other parameters as they are.

    Its state is tensors and numbers only, so a run resumes bitwise.

    Args:
        groups: Parameter groups with ``lr`` and ``weight_decay``. One with ``rank`` has matrices, and also
            ``update_proj_gap`` [steps], ``scale`` and ``side`` ("std": the shorter side).
        make_inner: Makes the inner optimizer of such groups, with small matrices in place of the targets.
    """

    def __init__(self, groups: list[dict[str, Any]], make_inner: MakeInner) -> None:
        super().__init__(groups, {})
        self._small: dict[torch.Tensor, torch.nn.Parameter] = {}
        self._from_right: dict[torch.Tensor, bool] = {}
        self._projections: dict[torch.Tensor, torch.Tensor] = {}
        inner_groups = []
        for group in self.param_groups:
            is_target = "rank" in group
            parameters = [self._shrunk(p, group) if is_target else p for p in group["params"]]
            # Weight decay is of the whole matrix, so it is done here.
            decay = {"weight_decay": 0.0} if is_target else {}
            kept = {
                key: value
                for key, value in group.items()
                if key not in ("params", "rank", "update_proj_gap", "scale", "side", "is_target")
            }
            inner_groups.append({**kept, **decay, "params": parameters})
        self.inner = make_inner(inner_groups)
        self.defaults = dict(self.inner.defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Project, let the inner optimizer step, and project its step back."""
        for group, inner_group in zip(self.param_groups, self.inner.param_groups, strict=True):
            inner_group["lr"] = group["lr"]
            if "rank" in group:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._project(parameter, group)
        self.inner.step()
        for group in self.param_groups:
            for parameter in group["params"]:
                if "rank" in group and parameter.grad is not None:
                    self._project_back(parameter, group)
                self.adopt_state(parameter)

    def inner_of(self, parameter: torch.Tensor) -> tuple[torch.optim.Optimizer, torch.Tensor]:
        return self.inner, self._small.get(parameter, parameter)

    def restore_state(self, parameter: torch.Tensor, saved: dict[str, Any]) -> None:
        expected, found = self._shape(parameter), saved.get(PROJECTION)
        if found is not None and (expected is None or expected != tuple(found.shape)):
            raise ValueError(f"a projection of shape {tuple(found.shape)} was saved, and {expected} is used")
        super().restore_state(parameter, saved)
        if found is not None:
            self._projections[parameter] = found

    def describe(self) -> str:
        """For the table of what is engaged."""
        ranks = sorted({min(small.shape) for small in self._small.values()})
        return f"GaLore({type(self.inner).__name__}), {len(self._small)} matrices at rank {'/'.join(map(str, ranks))}"

    # ---- inside -------------------------------------------------------------------------------------------------

    def _project(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        gradient = parameter.grad
        assert gradient is not None
        small, from_right = self._small[parameter], self._from_right[parameter]
        age = int(self.inner.state.get(small, {}).get(STEP, 0))
        if parameter not in self._projections or age % group["update_proj_gap"] == 0:
            self._projections[parameter] = projection_of(gradient, group["rank"], from_right=from_right)
        projection = self._projections[parameter]
        small.grad = project(gradient, projection, from_right=from_right)
        small.zero_()

    def _project_back(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        small, projection = self._small[parameter], self._projections[parameter]
        whole = project_back(small, projection, from_right=self._from_right[parameter])
        parameter.add_(whole.to(parameter.dtype), alpha=group["scale"])
        if group.get("weight_decay"):
            parameter.add_(parameter, alpha=-group["lr"] * group["weight_decay"])
        small.grad = None
        state = self.inner.state[small]
        state[PROJECTION] = projection
        state[STEP] = int(state.get(STEP, 0)) + 1

    def _shrunk(self, parameter: torch.Tensor, group: dict[str, Any]) -> torch.nn.Parameter:
        rows, columns = parameter.shape
        rank = min(group["rank"], rows, columns)
        from_right = projects_from_right(parameter.shape, group["side"])
        shape = (rows, rank) if from_right else (rank, columns)
        small = torch.nn.Parameter(torch.zeros(shape, dtype=torch.float32, device=parameter.device))
        self._small[parameter], self._from_right[parameter] = small, from_right
        return small

    def _shape(self, parameter: torch.Tensor) -> tuple[int, ...] | None:
        """Of a parameter's projection."""
        small = self._small.get(parameter)
        if small is None:
            return None
        rows, columns = parameter.shape
        return (small.shape[1], columns) if self._from_right[parameter] else (rows, small.shape[0])


def projects_from_right(shape: torch.Size, side: str) -> bool:
    """Whether R keeps the rows of the gradient and has ``rank`` columns."""
    if side in ("left", "right"):
        return side == "right"
    is_tall = shape[0] >= shape[1]
    return is_tall if side == "std" else not is_tall


def projection_of(gradient: torch.Tensor, rank: int, *, from_right: bool) -> torch.Tensor:
    """The leading singular vectors of a gradient: [rank, n] for a projection from the right, [m, rank] from the left.

    All ranks: what rank 0 finds, since singular vectors have no determined sign.
    """
    u, _, v = torch.linalg.svd(gradient.float(), full_matrices=False)
    found = (v[:rank, :] if from_right else u[:, :rank]).contiguous()
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast(found, src=0)
    return found


def project(gradient: torch.Tensor, projection: torch.Tensor, *, from_right: bool) -> torch.Tensor:
    """R."""
    gradient = gradient.to(projection.dtype)
    return gradient @ projection.t() if from_right else projection.t() @ gradient


def project_back(step: torch.Tensor, projection: torch.Tensor, *, from_right: bool) -> torch.Tensor:
    """A step of the shape of the whole matrix."""
    return step @ projection if from_right else projection @ step
