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
    shapes = [
        (*mean.shape, sum(block.shape[2] for block in blocks))
        for mean, blocks in zip(moments.mean, moments.scatter, strict=True)
    ]
    rows = [mean.new_empty(s, dtype=dtype) for mean, s in zip(moments.mean, shapes, strict=True)]
    factor_into(split_columns(rows), moments, eps, dof, advance)
    return rows


def factor_into(
    rows: Sequence[Sequence[Tensor]],
    moments: Moments,
    eps: Sequence[float],
    dof: int,
    advance: Callable[[int], None] = lambda n_cells: None,
) -> None:
    """Do what ``factor`` does, into given rows, which may be the scatter itself.

    Args:
        rows: For each level the columns of each level of its head up to itself, coarse to fine,
            as in a scatter.
        moments: Of the good images.
        eps: Added to the diagonal, one per level.
        dof: Degrees of freedom the scatter is divided by.
        advance: Told how many more coarse cells are done.

    Raises:
        UsageError: A covariance is singular, or does not fit the type: eps is too small.
    """
    n_levels = len(moments.mean)
    starts = [level for level in range(n_levels) if len(moments.scatter[level]) == 1]
    for start, stop in pairwise((*starts, n_levels)):
        head = slice(start, stop)
        _factor_head(rows[head], moments.scatter[head], eps[head], dof, advance)


def split_columns(rows: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """Cut whitening rows, as ``factor`` returns them, where the columns of a level end."""
    parts, widths = [], [0]
    for own in rows:
        n_dims, n_columns = own.shape[1:]
        widths = [n_dims] if n_columns == n_dims else [*widths, n_dims]  # a head begins
        parts.append(torch.split(own, widths, dim=2))
    return parts


def _factor_head(
    rows: Sequence[Sequence[Tensor]],
    scatter: Sequence[Sequence[Tensor]],
    eps: Sequence[float],
    dof: int,
    advance: Callable[[int], None],
) -> None:
    cells = [blocks[-1].shape[0] for blocks in scatter]
    own = [blocks[-1].shape[1] for blocks in scatter]
    context = [sum(own[:level]) for level in range(len(own))]
    for first, last in _cut_cells(cells, own, context):
        parent = scatter[0][0].new_empty(last - first, 0, 0)
        for level, parts in enumerate(rows):
            descendants = cells[level] // cells[0]
            span = slice(first * descendants, last * descendants)
            w_ac, w_aa = _whiten(
                [block[span] / dof for block in scatter[level]], parent, eps[level]
            )
            for part, columns in zip(
                parts, (*torch.split(w_ac, own[:level], dim=2), w_aa), strict=True
            ):
                part[span] = columns
                if not bool(part[span].isfinite().all()):
                    raise UsageError(
                        f"eps is {eps[level]:g}, but the whitening needs more to fit "
                        f"{str(part.dtype).removeprefix('torch.')}. Raise --eps, or use --store "
                        "float32."
                    )
            if level + 1 < len(rows):
                siblings = w_aa.shape[0] // parent.shape[0]
                upper = torch.cat((parent, parent.new_zeros(*parent.shape[:2], own[level])), dim=2)
                parent = torch.cat(
                    (upper.repeat_interleave(siblings, dim=0), torch.cat((w_ac, w_aa), dim=2)),
                    dim=1,
                )
        advance(last - first)


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


def squared_distances(rows: Sequence[Sequence[Tensor]], centred: Sequence[Tensor]) -> list[Tensor]:
    """What each level adds to the squared distances, given the coarser ones, ``(cells, N)``.

    Args:
        rows: As ``split_columns`` cuts them.
        centred: Features less their mean, one per level, coarse to fine, shape ``(cells, d, N)``.
    """
    levels = []
    for level, parts in enumerate(rows):
        white = torch.zeros_like(centred[level], memory_format=torch.contiguous_format)
        above = centred[level + 1 - len(parts) : level + 1]
        for part, features in zip(parts, above, strict=True):
            # One product for all descendants of a cell.
            siblings = part.view(features.shape[0], -1, features.shape[1])
            white.view(features.shape[0], -1, white.shape[2]).baddbmm_(siblings, features)
        levels.append(white.square_().sum(dim=1))
    return levels


def _cut_cells(
    cells: Sequence[int], own: Sequence[int], context: Sequence[int]
) -> list[tuple[int, int]]:
    per_coarse_cell = max(
        count // cells[0] * (above + dims) * (3 * dims + above + dims) * 8
        for count, dims, above in zip(cells, own, context, strict=True)
    )
    step = max(1, BLOCK_BYTES // per_coarse_cell)
    return [(first, min(first + step, cells[0])) for first in range(0, cells[0], step)]
