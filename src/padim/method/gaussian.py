"""From moments to whitening rows: the fit in closed form."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from padim.errors import UsageError
from padim.method.moments import Moments
from padim.recipes import EPS_FLOOR

STORES = {"float16": torch.float16, "float32": torch.float32}

BLOCK_BYTES = 32 << 20  # working memory of one block of cells, about


def relative_eps(moments: Moments, eps: float) -> list[float]:
    """Scale eps by the mean variance of each level over all its cells and dimensions.

    ``eps`` is a fraction of that. What comes back, one per level, is never below 1e-4.
    """
    dof = max(moments.count - 1, 1)
    traces = [rows[-1].diagonal(dim1=1, dim2=2) for rows in moments.scatter]
    return level_eps([float(trace.mean()) / dof for trace in traces], eps)


def level_eps(variances: Sequence[float], eps: float) -> list[float]:
    """Scale eps by the mean variance of each level, never below 1e-4."""
    return [max(EPS_FLOOR, eps * variance) for variance in variances]


def factor(
    moments: Moments,
    eps: Sequence[float],
    dof: int,
    dtype: torch.dtype = torch.float64,
    advance: Callable[[int], None] = lambda n_cells: None,
) -> list[Tensor]:
    """Whiten every cell, level by level, in float64 and in blocks of coarse cells.

    With ``Sigma = scatter / dof + eps I`` of a cell and its ancestors and ``W = chol(Sigma)^-1``,
    the rows of W that belong to a level depend on nothing finer, so each is computed and kept
    once, at its own cell.

    Args:
        moments: Of the good images.
        eps: Added to the diagonal, one per level.
        dof: Degrees of freedom the scatter is divided by.
        dtype: Type of the result; the computation is in float64.
        advance: Told how many more coarse cells are done.

    Returns:
        One per level, coarse to fine, shape ``(cells, d, D + d)``: the columns of the ancestors,
        coarse to fine, then the level's own, which are lower triangular.

    Raises:
        UsageError: A covariance is singular, or does not fit the type: eps is too small.
    """
    n_levels = len(moments.mean)
    starts = [level for level in range(n_levels) if len(moments.scatter[level]) == 1]
    rows: list[Tensor] = []
    for start, stop in pairwise((*starts, n_levels)):
        head = slice(start, stop)
        rows += _factor_head(
            moments.mean[head], moments.scatter[head], eps[head], dof, dtype, advance
        )
    return rows


def _factor_head(
    means: Sequence[Tensor],
    scatter: Sequence[Sequence[Tensor]],
    eps: Sequence[float],
    dof: int,
    dtype: torch.dtype,
    advance: Callable[[int], None],
) -> list[Tensor]:
    own = [mean.shape[1] for mean in means]
    cells = [mean.shape[0] for mean in means]
    context = [sum(own[:level]) for level in range(len(own))]
    rows = [
        mean.new_empty(c, d, above + d, dtype=dtype)
        for mean, c, d, above in zip(means, cells, own, context, strict=True)
    ]
    for first, last in _cut_cells(cells, own, context):
        parent = means[0].new_empty(last - first, 0, 0)
        for level, row in enumerate(rows):
            descendants = cells[level] // cells[0]
            span = slice(first * descendants, last * descendants)
            w_ac, w_aa = _whiten(
                [block[span] / dof for block in scatter[level]], parent, eps[level]
            )
            row[span, :, : context[level]] = w_ac
            row[span, :, context[level] :] = w_aa
            if not bool(row[span].isfinite().all()):
                raise UsageError(
                    f"eps is {eps[level]:g}, but the whitening needs more to fit "
                    f"{str(dtype).removeprefix('torch.')}. Raise --eps, or use --store float32."
                )
            if level + 1 < len(rows):
                siblings = w_aa.shape[0] // parent.shape[0]
                upper = torch.cat((parent, parent.new_zeros(*parent.shape[:2], own[level])), dim=2)
                parent = torch.cat(
                    (upper.repeat_interleave(siblings, dim=0), torch.cat((w_ac, w_aa), dim=2)),
                    dim=1,
                )
        advance(last - first)
    return rows


def _whiten(blocks: list[Tensor], parent: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Compute the whitening rows of one level: the ancestors' columns, and its own.

    Args:
        blocks: Covariances with each ancestor level and with itself, shape ``(cells, d, d_k)``.
        parent: Whitening of the parents, shape ``(parents, D, D)``.
        eps: Added to the diagonal of the level's own covariance.
    """
    *above, covariance = blocks
    cells, dims, _ = covariance.shape
    parents, n_context, _ = parent.shape
    covariance.diagonal(dim1=1, dim2=2).add_(eps)
    grouped = (parents, cells // parents * dims, n_context)
    if above:
        sigma_ac = torch.cat(above, dim=2).view(grouped)
        b = torch.bmm(sigma_ac, parent.transpose(1, 2)).view(cells, dims, n_context)
        covariance.baddbmm_(b, b.transpose(1, 2), alpha=-1)
    chol, info = torch.linalg.cholesky_ex(covariance)
    if bool(info.any()):
        raise UsageError(
            f"eps is {eps:g}, but a covariance stays singular with so little. Try 0.01."
        )
    identity = torch.eye(dims, dtype=chol.dtype, device=chol.device).expand_as(chol)
    w_aa = torch.linalg.solve_triangular(chol, identity, upper=False)
    if not above:
        return w_aa.new_empty(cells, dims, 0), w_aa
    return torch.bmm(torch.bmm(w_aa, b).view(grouped), parent).view(
        cells, dims, n_context
    ).neg_(), w_aa


def squared_distances(rows: Sequence[Tensor], centred: Sequence[Tensor]) -> list[Tensor]:
    """What each level adds to the squared distances, given the coarser ones, ``(cells, N)``.

    Args:
        rows: As ``factor`` returns them.
        centred: Features less their mean, one per level, coarse to fine, shape ``(cells, d, N)``.
    """
    levels = []
    first = 0
    for level, own_rows in enumerate(rows):
        n_cells, n_dims, n_columns = own_rows.shape
        if n_columns == n_dims:  # without context: the first of a head
            first = level
        white = own_rows.new_zeros(n_cells, n_dims, centred[0].shape[2])
        start = 0
        for above in centred[first : level + 1]:
            parents, width, _ = above.shape
            # One product for all descendants of a cell.
            part = own_rows[:, :, start : start + width].view(parents, -1, width)
            white.view(parents, -1, white.shape[2]).baddbmm_(part, above)
            start += width
        levels.append(white.square_().sum(dim=1))
    return levels


def _cut_cells(cells: list[int], own: list[int], context: list[int]) -> list[tuple[int, int]]:
    per_coarse_cell = max(
        count // cells[0] * (above + dims) * (3 * dims + above + dims) * 8
        for count, dims, above in zip(cells, own, context, strict=True)
    )
    step = max(1, BLOCK_BYTES // per_coarse_cell)
    return [(first, min(first + step, cells[0])) for first in range(0, cells[0], step)]
