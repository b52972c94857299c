"""The whole way from uint8 images to map and score, as one module."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from padim.postprocess import image_score, resize_blur_matrix
from padim.preprocess import Preprocess
from padim.pyramid import Pyramid
from padim.trunk import Trunk


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
            images: RGB, shape ``(N, H, W, 3)``, uint8.

        Returns:
            What the trunk takes: shape ``(N, 3, H, W)``, float32, in memory channels last.
        """
        rows = (images.flatten(2).float() - self.mean) / self.std
        return rows.view(images.shape).permute(0, 3, 1, 2)


class Head(nn.Module):
    """From the features of each level to the Mahalanobis distances of the finest grid.

    Args:
        pyramid: The levels.
        mean: Per level, shape ``(cells, d)``.
        whitening: Per level, shape ``(cells, d, D + d)``, as ``gaussian.factor`` returns it.
        dtype: Type to compute in.
        store: Type the whitening is kept in, when it is not the same; converted on each call.
    """

    def __init__(
        self,
        pyramid: Pyramid,
        mean: Sequence[Tensor],
        whitening: Sequence[Tensor],
        dtype: torch.dtype = torch.float32,
        store: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.dtype = dtype
        store = store or dtype
        self.grid = pyramid.levels[-1].grid
        parents = 1
        for i, (level, mu, rows) in enumerate(zip(pyramid.levels, mean, whitening, strict=True)):
            cells, d, width = rows.shape
            # Features times transposed rows: the fastest layout for a few images at a time.
            # Siblings share their context, so one product serves them all.
            own = rows[:, :, width - d :].to(store).transpose(1, 2).contiguous()
            self.register_buffer(f"mean_{i}", mu.to(dtype)[:, None])  # (cells, 1, d)
            self.register_buffer(f"own_{i}", own)  # (cells, d, d)
            if i:
                context = rows[:, :, : width - d].to(store)
                context = context.reshape(parents, cells // parents * d, width - d)
                context = context.transpose(1, 2).contiguous()  # (parents, D, siblings d)
                self.register_buffer(f"context_{i}", context)
            parents = level.n_cells
        place = torch.empty(parents, dtype=torch.int64)
        place[torch.as_tensor(pyramid.order[-1])] = torch.arange(parents)
        self.place: Tensor
        self.register_buffer("place", place)

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
        distance_sq = levels[0]
        for own in levels[1:]:
            siblings = own.view(distance_sq.shape[0], -1, own.shape[1])
            distance_sq = (siblings + distance_sq[:, None]).view(own.shape)
        return distance_sq[self.place].t().reshape(-1, *self.grid).sqrt()

    def levels(self, embeddings: Sequence[Tensor]) -> list[Tensor]:
        """Compute what each level adds to the squared distances, given the coarser ones.

        Args:
            embeddings: One per level, coarse to fine, shape ``(cells, N, d)``.

        Returns:
            One per level, coarse to fine, shape ``(cells, N)``.
        """
        context: Tensor | None = None
        levels: list[Tensor] = []
        for i, embedding in enumerate(embeddings):
            delta = embedding - self.get_buffer(f"mean_{i}")
            cells, n, d = delta.shape
            white = torch.bmm(delta, self.get_buffer(f"own_{i}").to(self.dtype))
            if context is None:
                levels.append(white.square().sum(dim=2))
                context = delta
                continue
            parents = context.shape[0]
            siblings = cells // parents
            rows = self.get_buffer(f"context_{i}").to(self.dtype)
            shared = torch.bmm(context, rows)  # (parents, N, siblings d)
            shared = shared.view(parents, n, siblings, d).transpose(1, 2)
            white = white.view(parents, siblings, n, d) + shared
            levels.append(white.square().sum(dim=3).view(cells, n))
            if i + 1 < len(embeddings):
                replicated = context[:, None].expand(-1, siblings, -1, -1).reshape(cells, n, -1)
                context = torch.cat((replicated, delta), dim=2)
        return levels


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
        features: From images to features.
        head: From features to distances.
        size_px: (height, width) of the map.
        sigma_px: Standard deviation of the map's blur.
        score_fraction: Fraction of the hottest pixels that the image score averages.
    """

    def __init__(
        self,
        features: Features,
        head: Head,
        size_px: tuple[int, int],
        sigma_px: float,
        score_fraction: float,
    ) -> None:
        super().__init__()
        self.features = features
        self.head = head
        self.score_fraction = score_fraction
        for axis, n_out, n_in in zip(("rows", "columns"), size_px, head.grid, strict=True):
            matrix = torch.as_tensor(resize_blur_matrix(n_out, n_in, sigma_px))
            self.register_buffer(axis, matrix.float())

    def forward(self, images: Tensor) -> Scores:
        """Score a batch.

        Args:
            images: RGB, shape ``(N, H, W, 3)``, uint8.
        """
        levels = self.head.levels(self.features(images))
        distance = self.head.joined(levels)
        anomaly_map = self.get_buffer("rows") @ distance @ self.get_buffer("columns").t()
        own = [image_score(level.t().sqrt(), self.score_fraction) for level in levels]
        return Scores(
            anomaly_map, image_score(anomaly_map, self.score_fraction), torch.stack(own, dim=1)
        )
