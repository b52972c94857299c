"""From the distances of a grid to a map of pixels and one score, as small matrices."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class Postprocess(nn.Module):
    """From the distances of a grid to a map of pixels and one score.

    Args:
        grid: (h, w) cells.
        size_px: (height, width) of the map.
        sigma_px: Standard deviation of the map's blur.
        score_fraction: Fraction of the hottest pixels that the image score averages.
        modelled: Whether a cell has a distance, shape ``grid``; all have when None.
        counted: Whether a pixel counts, shape ``size_px``; all do when None. The map is 0
            elsewhere, and the average of what is around only inside.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        size_px: tuple[int, int],
        sigma_px: float,
        score_fraction: float,
        modelled: NDArray[np.bool_] | None = None,
        counted: NDArray[np.bool_] | None = None,
    ) -> None:
        super().__init__()
        self.score_fraction = score_fraction
        self.n_counted = size_px[0] * size_px[1]
        matrices = {}
        for axis, n_out, n_in in zip(("rows", "columns"), size_px, grid, strict=True):
            matrices[axis] = resize_blur_matrix(n_out, n_in, sigma_px)
            self.register_buffer(axis, torch.as_tensor(matrices[axis]).float())
        gain = None
        if modelled is not None and counted is not None:
            weight = matrices["rows"] @ modelled @ matrices["columns"].T
            inverse = np.divide(1, weight, out=np.zeros(size_px), where=counted)
            gain = torch.as_tensor(inverse).float()
            self.n_counted = int(counted.sum())
        self.gain: Tensor | None
        self.register_buffer("gain", gain)

    def forward(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """From distances ``(N, h, w)`` to anomaly maps ``(N, H, W)`` and N image scores."""
        anomaly_map = self.get_buffer("rows") @ distance @ self.get_buffer("columns").t()
        if self.gain is not None:
            anomaly_map = anomaly_map * self.gain
        return anomaly_map, image_score(anomaly_map, self.score_fraction, self.n_counted)


def resize_blur_matrix(n_out: int, n_in: int, sigma_px: float) -> NDArray[np.float64]:
    """Upsample ``n_in`` cells bilinearly and then blur along one axis, as a matrix.

    Its shape is ``(n_out, n_in)``; rows sum to 1.

    Source:
        ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`` and then
        ``scipy.ndimage.gaussian_filter`` with its defaults: truncated at 4 sigma, and a border
        that mirrors about the edge of the last pixel.
    """
    centre = np.clip((np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5, 0, None)
    low = np.minimum(np.floor(centre).astype(int), n_in - 1)
    high = np.minimum(low + 1, n_in - 1)
    fraction = centre - low
    resize = np.zeros((n_out, n_in))
    np.add.at(resize, (np.arange(n_out), low), 1 - fraction)
    np.add.at(resize, (np.arange(n_out), high), fraction)
    if sigma_px == 0:
        return resize
    radius = int(4 * sigma_px + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma_px) ** 2)
    kernel /= kernel.sum()
    source = (np.arange(n_out)[:, None] + np.arange(-radius, radius + 1)) % (2 * n_out)
    mirrored = np.where(source < n_out, source, 2 * n_out - 1 - source)
    blur = np.zeros((n_out, n_out))
    np.add.at(blur, (np.arange(n_out)[:, None], mirrored), np.broadcast_to(kernel, source.shape))
    return blur @ resize


def image_score(anomaly_map: Tensor, fraction: float, n_counted: int | None = None) -> Tensor:
    """Mean of the hottest pixels of each map ``(N, H, W)``, shape ``(N,)``.

    They are the ``fraction`` of ``n_counted`` pixels, of all when None. One pixel is taken at
    least: with a fraction of 0 the score is the maximum.
    """
    pixels = anomaly_map.flatten(1)
    return mean_of_hottest(pixels, max(1, round(fraction * (n_counted or pixels.shape[1]))))


def mean_of_hottest(values: Tensor, k: int) -> Tensor:
    """Mean of the k highest of values ``(N, n)``, shape ``(N,)``."""
    if k == 1:
        return values.amax(dim=1)
    return torch.topk(values, k, dim=1, sorted=False).values.mean(dim=1)
