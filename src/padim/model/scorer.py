"""The whole way from uint8 images to map and score, as one module."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from padim.features.trunk import Trunk
from padim.images.preprocess import Preprocess
from padim.method.postprocess import Postprocess, image_score
from padim.method.pyramid import Pyramid


class Features(nn.Module):
    """From uint8 images to the features of each level.

    Args:
        trunk: The truncated backbone.
        pyramid: Its levels.
        preprocess: Whose mean and standard deviation are applied here.
        precision: Type the trunk computes in.
    """

    def __init__(
        self,
        trunk: Trunk,
        pyramid: Pyramid,
        preprocess: Preprocess,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.pyramid = pyramid
        self.size_px = preprocess.size_px
        self.precision = precision
        self.mean: Tensor
        self.std: Tensor
        # A whole row of pixels each: channels alone are too short to be broadcast fast.
        width = preprocess.size_px[1]
        self.register_buffer("mean", torch.tensor(preprocess.mean).repeat(width) * 255)
        self.register_buffer("std", torch.tensor(preprocess.std).repeat(width) * 255)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the features of a batch.

        Args:
            images: RGB, shape ``(N, H, W, 3)``, uint8.

        Returns:
            One per level, coarse to fine, shape ``(cells, N, d)``, float32.
        """
        pixels = self.normalise(images)
        with torch.autocast(
            images.device.type, dtype=torch.bfloat16, enabled=self.precision == torch.bfloat16
        ):
            feature_maps = self.trunk(pixels)
        return self.pyramid.split([feature_map.float() for feature_map in feature_maps])

    def normalise(self, images: Tensor) -> Tensor:
        """Subtract the mean and divide by the standard deviation of each channel.

        Args:
            images: RGB, shape ``(N, H, W, 3)``, 0 to 255.

        Returns:
            What the trunk takes: shape ``(N, 3, H, W)``, float32, in memory channels last.
        """
        rows = (images.flatten(2).float() - self.mean) / self.std
        return rows.view(images.shape).permute(0, 3, 1, 2)


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
                rows[:, :, columns].reshape(len(mu), -1, level.n_dims) for rows in whitening[k:]
            ]
            n_rows = sum(part.shape[1] for part in parts)
            # In torch, features times transposed rows are the fastest for a few images at a time.
            shape = (n_rows, level.n_dims) if grouped else (level.n_dims, n_rows)
            rows = mu.new_empty(len(mu), *shape, dtype=store or dtype)
            by_row = rows if grouped else rows.transpose(1, 2)
            by_row.copy_(torch.cat(parts, dim=1))
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
        """Compute the distances of a batch.

        Args:
            embeddings: One per level, coarse to fine, shape ``(cells, N, d)``.

        Returns:
            Mahalanobis distances, not squared, shape ``(N, h, w)``.
        """
        return self.joined(self.levels(embeddings))

    def joined(self, levels: Sequence[Tensor]) -> Tensor:
        """Add the levels up at the finest grid.

        Args:
            levels: What ``levels`` returned.

        Returns:
            Mahalanobis distances, not squared, shape ``(N, h, w)``.
        """
        return self.pyramid.on_grid(self.pyramid.added_up(levels), self.place).sqrt()

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
        """Multiply the centred features of a level with all rows that want them.

        Returns:
            Shape ``(cells, rows, N)``.
        """
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


class Scores(NamedTuple):
    """What the graph says of a batch.

    Attributes:
        anomaly_map: Standard deviations of normal patches, shape ``(N, H, W)``.
        image_score: Mean of the hottest pixels of the map, shape ``(N,)``.
        level_scores: The same of what each level adds, coarse to fine, given the coarser ones, over
            its own cells and without blur, shape ``(N, levels)``: which of them was surprised.
    """

    anomaly_map: Tensor
    image_score: Tensor
    level_scores: Tensor


class Scorer(nn.Module):
    """From uint8 images to map and scores, as one graph: what torch runs and what is exported.

    Args:
        features: From images to features: a ``Features``, or another engine in its place.
        head: From features to distances.
        postprocess: From distances to map and score.
    """

    def __init__(self, features: nn.Module, head: Head, postprocess: Postprocess) -> None:
        super().__init__()
        self.features = features
        self.head = head
        self.postprocess = postprocess

    def forward(self, images: Tensor) -> Scores:
        """Score a batch.

        Args:
            images: RGB, shape ``(N, H, W, 3)``, 0 to 255.
        """
        levels = self.head.levels(self.features(images))
        anomaly_map, score = self.postprocess(self.head.joined(levels))
        fraction = self.postprocess.score_fraction
        own = [image_score(level.t().sqrt(), fraction) for level in levels]
        return Scores(anomaly_map, score, torch.stack(own, dim=1))


class CameraScorer(nn.Module):
    """A scorer that resizes the images of a camera itself.

    Args:
        scorer: What scores at network size.
        preprocess: The way from an image to the network.
        camera_px: (height, width) of the images.
    """

    def __init__(self, scorer: Scorer, preprocess: Preprocess, camera_px: tuple[int, int]) -> None:
        super().__init__()
        self.scorer = scorer
        rows, columns, self.rows_first = preprocess.matrices(camera_px)
        for axis, matrix in (("rows", rows), ("columns", columns.T)):
            # In two parts, whose products with pixels of 8 bits are exact in float32.
            high = np.round(matrix * 2**14) / 2**14
            for part, values in (("high", high), ("low", matrix - high)):
                self.register_buffer(f"{axis}_{part}", torch.from_numpy(values.copy()).float())

    def forward(self, images: Tensor) -> Scores:
        """Score a batch.

        Args:
            images: RGB, shape ``(N, camera height, camera width, 3)``, uint8.
        """
        channels = images.permute(0, 3, 1, 2).float()
        if self.rows_first:
            channels = self._along_columns(self._along_rows(channels))
        else:
            channels = self._along_rows(self._along_columns(channels))
        scores: Scores = self.scorer(channels.permute(0, 2, 3, 1))
        return scores

    def _along_rows(self, channels: Tensor) -> Tensor:
        high, low = (self.get_buffer(f"rows_{part}") @ channels for part in ("high", "low"))
        return _to_8_bit(high, low)

    def _along_columns(self, channels: Tensor) -> Tensor:
        high, low = (channels @ self.get_buffer(f"columns_{part}") for part in ("high", "low"))
        return _to_8_bit(high, low)


def _to_8_bit(high: Tensor, low: Tensor) -> Tensor:
    """Round a sum of two parts, halves up, without losing the digits of the lower one."""
    whole = (high + 0.5).floor()
    return (whole + (high + 0.5 - whole + low).floor()).clamp(0, 255)
