"""From uint8 images to the features of each level, as torch runs the trunk."""

import torch
from torch import Tensor, nn

from padim.features.trunk import AnyTrunk
from padim.images.preprocess import Preprocess, resize_matrix
from padim.method.pyramid import Pyramid, Splitter
from padim.method.tiles import Tile, Tiling


class Features(nn.Module):
    """From uint8 images to the features of each level; ``preprocess`` gives mean and deviation.

    Where they are ``mirrored``, a feature is the mean of two: of the image, and of its left-right
    mirror at the mirrored place. Those of a coarse head come last, of a smaller copy.
    """

    def __init__(
        self,
        trunk: AnyTrunk,
        pyramid: Pyramid,
        preprocess: Preprocess,
        precision: torch.dtype = torch.float32,
        *,
        mirrored: bool = False,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.mirrored = mirrored
        self.pyramid = pyramid
        self.splitters = nn.ModuleList(map(Splitter, pyramid.heads))
        self.size_px = preprocess.size_px
        self.precision = precision
        self.mean: Tensor
        self.std: Tensor
        # A whole row of pixels each: channels alone are too short to be broadcast fast.
        width = preprocess.size_px[1]
        for name, values in (("mean", preprocess.mean), ("std", preprocess.std)):
            row = torch.tensor(values, dtype=torch.float32).repeat(width)
            self.register_buffer(name, row * 255)
        self.rows: Tensor
        self.columns: Tensor
        if (coarse_px := Tiling.whole(pyramid, self.size_px).coarse_px) is not None:
            sides = zip(("rows", "columns"), coarse_px, self.size_px, strict=True)
            for axis, n_out, n_in in sides:
                matrix = resize_matrix(n_out, n_in, "bilinear")
                self.register_buffer(axis, torch.from_numpy(matrix).float())

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of RGB ``(N, H, W, 3)``, uint8: ``(cells, N, d)`` per level, float32."""
        if self.mirrored:
            images = torch.stack((images, images.flip(2)), dim=1).flatten(0, 1)
        pixels = self.normalise(images)
        split, *others = self.splitters
        levels: list[Tensor] = split(self._look(pixels))
        for split_coarse in others:
            small = self.rows @ pixels @ self.columns.t()
            small = small.contiguous(memory_format=torch.channels_last)
            levels += split_coarse(self._look(small))
        return levels

    def _look(self, pixels: Tensor) -> list[Tensor]:
        """A feature map per tap, of normalised pixels."""
        device = "cpu" if pixels.is_meta else pixels.device.type  # of shapes alone there is none
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.precision == torch.bfloat16):
            feature_maps = self.trunk(pixels)
        feature_maps = [feature_map.float() for feature_map in feature_maps]
        if self.mirrored:
            pairs = [feature_map.unflatten(0, (-1, 2)) for feature_map in feature_maps]
            feature_maps = [(pair[:, 0] + pair[:, 1].flip(3)) / 2 for pair in pairs]
        return feature_maps

    def normalise(self, images: Tensor) -> Tensor:
        """What the trunk takes: shape ``(N, 3, H, W)``, float32, in memory channels last."""
        rows = (images.flatten(2).float() - self.mean) / self.std
        return rows.view(images.shape).permute(0, 3, 1, 2)


class TiledFeatures(nn.Module):
    """From uint8 images to the features of the modelled cells, part by part.

    ``features`` gives those of all cells of a part.
    """

    def __init__(self, features: nn.Module, tiling: Tiling) -> None:
        super().__init__()
        self.features = features
        self.tiling = tiling

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of RGB ``(N, H, W, 3)``, uint8: ``(cells, N, d)`` per level, float32."""
        parts = [self.of_tile(self.tiling.crop(images, tile), tile) for tile in self.tiling.tiles]
        if len(parts) == 1:
            return parts[0]
        return [torch.cat(level) for level in zip(*parts, strict=True)]

    def of_tile(self, images: Tensor, tile: Tile) -> list[Tensor]:
        """Features that one part answers for, of what it shows: ``(N, h, w, 3)``, uint8."""
        embeddings: list[Tensor] = self.features(images)
        return tile.pyramid.keep_modelled(embeddings)
