"""The distances of a batch as one torch module."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from padim.method.pyramid import Pyramid


class Head(nn.Module):
    """From the features of each level to the Mahalanobis distances of the finest grid.

    Rows are kept by the level whose features they multiply: one product of a cell's features serves
    the cell itself and all its descendants, and nothing is copied to a finer grid.

    Args:
        pyramid: The levels.
        mean: Per level, shape ``(cells, d)``.
        whitening: Per level, shape ``(cells, d, D + d)``, as ``gaussian.factor`` returns it.
        dtype: Type to compute in.
        store: Type the whitening is kept in, when it is not the same; converted on each call.
        grouped: Whether the products are grouped convolutions, which ONNX Runtime and OpenVINO run
            at the speed of memory, instead of batched matrix products, which torch does faster.
    """

    def __init__(
        self,
        pyramid: Pyramid,
        mean: Sequence[Tensor],
        whitening: Sequence[Tensor],
        dtype: torch.dtype = torch.float32,
        store: torch.dtype | None = None,
        grouped: bool = False,
    ) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.dtype = dtype
        self.grouped = grouped
        self.grid = pyramid.levels[-1].grid
        start = 0
        for k, (level, mu) in enumerate(zip(pyramid.levels, mean, strict=True)):
            columns = slice(start, start + level.n_dims)
            start += level.n_dims
            parts = [
                rows.reshape(len(mu), -1, *rows.shape[1:])[..., columns] for rows in whitening[k:]
            ]
            counts = [part.shape[1] * part.shape[2] for part in parts]
            n_rows = sum(counts)
            # In torch, features times transposed rows are the fastest for a few images at a time.
            shape = (n_rows, level.n_dims) if grouped else (level.n_dims, n_rows)
            rows = mu.new_empty(len(mu), *shape, dtype=store or dtype)
            by_row = rows if grouped else rows.transpose(1, 2)
            for part, place in zip(parts, torch.split(by_row, counts, dim=1), strict=True):
                torch.unflatten(place, 1, part.shape[1:3]).copy_(part)
            if grouped and level is pyramid.levels[-1]:
                # The finest features meet their own rows only: a lower triangle, kept without its
                # zeros, which a runtime puts back when it loads the graph.
                row, column = torch.tril_indices(level.n_dims, level.n_dims)
                square = torch.full((level.n_dims, level.n_dims), len(row))
                square[row, column] = torch.arange(len(row))
                self.square: Tensor
                self.register_buffer("square", square.flatten())
                rows = nn.functional.pad(rows[:, row, column], (0, 1))
            elif grouped:
                rows = rows.view(-1, level.n_dims, 1)  # kernels of one pixel, cell by cell
            self.register_buffer(f"mean_{k}", mu.to(dtype)[:, None])  # (cells, 1, d)
            self.register_buffer(f"rows_{k}", rows)
        self.place: Tensor
        self.register_buffer("place", torch.from_numpy(pyramid.place))

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Compute the distances of a batch, not squared, shape ``(N, h, w)``.

        The embeddings are one per level, coarse to fine, shape ``(cells, N, d)``.
        """
        return self.join(self.levels(embeddings))

    def join(self, levels: Sequence[Tensor]) -> Tensor:
        """Make of what ``levels`` gave the distances."""
        return self.pyramid.on_grid(self.pyramid.add_up(levels), self.place).sqrt()

    def levels(self, embeddings: Sequence[Tensor]) -> list[Tensor]:
        """Compute what each level adds to the squared distances, given the coarser ones.

        Args:
            embeddings: One per level, coarse to fine, shape ``(cells, N, d)``.

        Returns:
            One per level, coarse to fine, shape ``(cells, N)``.
        """
        n = embeddings[0].shape[1]
        products = [self._products(k, embedding) for k, embedding in enumerate(embeddings)]
        starts = [0] * len(products)
        levels = []
        for i, level in enumerate(self.pyramid.levels):
            white: Tensor | None = None
            for k, above in enumerate(self.pyramid.levels[: i + 1]):
                siblings = level.n_cells // above.n_cells
                stop = starts[k] + siblings * level.n_dims
                shape = (self.pyramid.n_cells(k), siblings, level.n_dims, n)
                part = products[k][:, starts[k] : stop].reshape(shape)
                white = part if white is None else white.reshape(shape) + part
                starts[k] = stop
            assert white is not None
            levels.append(white.square().sum(dim=2).reshape(-1, n))
        return levels

    def _products(self, k: int, embedding: Tensor) -> Tensor:
        """Multiply a level's centred features with all rows that want them."""
        delta = embedding - self.get_buffer(f"mean_{k}")
        rows = self.get_buffer(f"rows_{k}")
        if not self.grouped:
            return torch.bmm(delta, rows.to(self.dtype)).transpose(1, 2)
        cells, n, d = delta.shape
        # The images are pixels of one image whose channels are the cells' features.
        line = delta.transpose(1, 2).reshape(1, cells * d, n)
        if k == len(self.pyramid.levels) - 1:
            rows = rows.index_select(1, self.square).view(-1, d, 1)
        products = nn.functional.conv1d(line, rows.to(self.dtype), groups=cells)
        return products.reshape(cells, -1, n)
