"""The images that a model was trained on, described by their visual tokens from the vision tower.

Each kind of image has a Gaussian of visual tokens: one mean per position, one covariance for all positions. The
distance of an image is the larger of two: the mean squared Mahalanobis distance of its tokens, and that of their mean
deviation (large for a blank image), each divided by its largest usual value (Lee et al. 2018, arXiv:1807.03888, for
class-wise Gaussians).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuecard.domain.errors import BadInput
from cuecard.models.scope import Size, sizes

SHRINKAGE = 1e-3
USUAL_TOKENS, USUAL_MEAN = 0.99, 0.999
"""Quantiles of held-out images that define the largest usual distances; the first sets the rate of false alarms."""
FIELDS = ("image_sizes", "mean", "whitening", "limits")

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ImageKind:
    """One kind of image: its sizes, and the distribution of its visual tokens."""

    image_sizes: tuple[Size, ...]
    mean: Floats
    """(tokens, width)"""
    whitening: Floats
    """(width, width): deviations @ whitening have unit covariance."""
    limits: Floats
    """(2,): the largest usual squared distances of the tokens and of their mean."""

    @classmethod
    def fit(cls, image_sizes: Sequence[Size], tokens: Floats, held_out: Sequence[Floats]) -> ImageKind:
        """Fit to (images, tokens, width) visual tokens of the training images, with limits from held-out sets.

        Raises ValueError if the images do not vary.
        """
        mean, width = tokens.mean(0, dtype=np.float64), tokens.shape[-1]
        deviations = (tokens - mean).reshape(-1, width)
        covariance = deviations.T @ deviations / len(deviations)
        variance = float(np.trace(covariance)) / width
        if not variance > 0:
            raise ValueError("the images are all alike")
        covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * variance * np.eye(width)
        whitening = np.linalg.inv(np.linalg.cholesky(covariance)).T
        unlimited = cls(tuple(image_sizes), _rounded(mean), _rounded(whitening), np.ones(2, np.float32))
        squares = [np.array([unlimited._squares(image) for image in images]) for images in held_out]
        limits = [
            max(float(np.quantile(each[:, column], usual)) for each in squares)
            for column, usual in enumerate((USUAL_TOKENS, USUAL_MEAN))
        ]
        return cls(unlimited.image_sizes, unlimited.mean, unlimited.whitening, np.array(limits, np.float32))

    def distance(self, tokens: Floats) -> float | None:
        """Distance of an image's (tokens, width) visual tokens: above 1 is unusual; None for another shape."""
        if tokens.shape != self.mean.shape:
            return None
        return float((self._squares(tokens) / self.limits).max())

    @np.errstate(over="ignore", invalid="ignore")
    def _squares(self, tokens: Floats) -> Floats:
        white = (tokens - self.mean) @ self.whitening
        mean = white.mean(0)
        return np.array([np.vdot(white, white) / white.size, np.vdot(mean, mean) / mean.size], np.float32)


@dataclass(frozen=True, eq=False)
class ImageScope:
    """The kinds of images that a model was trained on, by name."""

    kinds: Mapping[str, ImageKind]

    @classmethod
    def read(cls, path: Path) -> ImageScope:
        """The scope in an .npz file. Raises BadInput."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                names = sorted({name.partition(".")[0] for name in arrays.files})
                return cls({name: _kind(*(arrays[f"{name}.{field}"] for field in FIELDS)) for name in names})
        except Exception as error:  # a broken zip file fails in many ways
            raise BadInput(f"{path} is not a scope of images: {error}", "make it again, or remove it") from error

    def write(self, path: Path) -> None:
        """Write an .npz file, with the same bytes for the same numbers."""
        arrays: dict[str, Any] = {}
        for name, kind in sorted(self.kinds.items()):
            for field in FIELDS:
                values = np.array(getattr(kind, field))
                half = values.astype(np.float16)
                arrays[f"{name}.{field}"] = half if np.array_equal(half, values) else values
        np.savez_compressed(path, **arrays)

    def distances(self, tokens: Any) -> dict[Size, float]:
        """Distance of an image's (tokens, width) visual tokens by image size: above 1 is unlike images of that size."""
        values, found = np.asarray(tokens, np.float32), dict[Size, float]()
        for kind in self.kinds.values():
            if (distance := kind.distance(values)) is not None:
                for size in kind.image_sizes:
                    found[size] = min(distance, found.get(size, distance))
        return found


def _rounded(values: NDArray[np.float64]) -> Floats:
    """Rounded to half precision, unless a value overflows there."""
    half = values.astype(np.float16)
    return (half if np.isfinite(half).all() else values).astype(np.float32)


def _kind(image_sizes: Any, mean: Any, whitening: Any, limits: Any) -> ImageKind:
    """The kind with these arrays. Raises ValueError if shapes do not fit or numbers are not valid."""
    (_, width), numbers = mean.shape, (mean, whitening, limits)
    if whitening.shape != (width, width) or limits.shape != (2,):
        raise ValueError(f"shapes {mean.shape}, {whitening.shape}, {limits.shape} do not fit")
    if not all(np.isfinite(each).all() for each in numbers) or not (limits > 0).all():
        raise ValueError("not all numbers are finite, and the limits above 0")
    return ImageKind(sizes(image_sizes), *(each.astype(np.float32) for each in numbers))
