"""Text features of items, as a frozen LLM gives them, whitened and scaled to length 1.

An LLM's mean-pooled states lie in a narrow cone, where all cosines are near 1. Whitened principal components spread
them (Su et al., arXiv 2103.15316; for recommendation UniSRec, KDD 2022).

Shape suffixes: B histories, I catalogue items, J new items, Q items of all histories, H LLM width, W whitened width.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor


class ReadsText(ABC):
    """A recommender that reads its items' text features beside their ids."""

    @abstractmethod
    def read_text(self, features_IH: NDArray[np.float32]) -> None:
        """Take the features of all items, float32 [I, H], before training or fitting."""


@dataclass(frozen=True)
class Whitening:
    """The map from text features to their principal components at unit variance, as fitted to some items."""

    center_H: NDArray[np.float64]
    directions_HW: NDArray[np.float64]
    """Zero for components beyond the rank of the features, or beyond the number of items."""

    @staticmethod
    def of(features_IH: NDArray[np.float32], width: int) -> "Whitening":
        """Fit the first `width` components to the features of all items."""
        from sklearn.decomposition import PCA  # takes 1.5 s, which jobs without text features need not wait

        rank = int(min(width, len(features_IH) - 1, features_IH.shape[1]))
        components = PCA(rank, svd_solver="full").fit(features_IH.astype(np.float64))
        known = components.explained_variance_ > 1e-9 * components.explained_variance_[0]
        directions_HW = np.zeros((features_IH.shape[1], width))
        directions = components.components_[known] / np.sqrt(components.explained_variance_[known])[:, None]
        directions_HW[:, : known.sum()] = directions.T
        return Whitening(components.mean_, directions_HW)

    def __call__(self, features_IH: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the components of some items, each item's scaled to length 1: float32 [I, W]."""
        white_IW = (features_IH - self.center_H) @ self.directions_HW
        norms_I1 = np.linalg.norm(white_IW, axis=1, keepdims=True)
        return (white_IW / np.maximum(norms_I1, 1e-12)).astype(np.float32)


def whitened(features_IH: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Return the first `width` components at unit variance, each item's scaled to length 1: float32 [I, W]."""
    return Whitening.of(features_IH, width)(features_IH)


def whitened_inputs(features_IH: NDArray[np.float32], width: int) -> Tensor:
    """Return `whitened` features with unit variance in each component, as a linear layer expects: float32 [I, W]."""
    return torch.from_numpy(whitened(features_IH, width) * width**0.5)


@dataclass(frozen=True)
class TextMeans:
    """Holds what a head reads of texts beside the LLM's output (neither in the paper nor in its code).

    An item's are the whitened components of its text's features. A history's are their mean, in which an item counts
    `decay` times as much as the next one. Both have unit variance in each component, as a linear map expects: length
    √W.
    """

    white_IW: NDArray[np.float32]
    """Each item's has length 1, or 0 without text."""
    whitening: Whitening
    """Gives those of further items."""
    decay: float

    @staticmethod
    def of(features_IH: NDArray[np.float32], width: int, decay: float) -> "TextMeans":
        """Whiten the text features of a catalogue (`laser.recommenders.text_features`)."""
        whitening = Whitening.of(features_IH, width)
        return TextMeans(whitening(features_IH), whitening, decay)

    @staticmethod
    def read(path: Path, decay: float) -> "TextMeans":
        """Read what `write` has written."""
        found = load_file(path)
        return TextMeans(found["white_IW"], Whitening(found["center_H"], found["directions_HW"]), decay)

    def write(self, path: Path) -> None:
        center_H, directions_HW = self.whitening.center_H, np.ascontiguousarray(self.whitening.directions_HW)
        save_file({"white_IW": self.white_IW, "center_H": center_H, "directions_HW": directions_HW}, path)

    def with_new(self, features_JH: NDArray[np.float32]) -> "TextMeans":
        """Return the same with further items, in the components of the first ones."""
        return TextMeans(np.concatenate([self.white_IW, self.whitening(features_JH)]), self.whitening, self.decay)

    def items(self, items_B: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the features of some items, float32 [B, W]."""
        return self.white_IW[items_B] * np.float32(self.white_IW.shape[1] ** 0.5)

    def histories(self, items_Q: NDArray[np.integer], length_B: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the features of some histories, float32 [B, W].

        Args:
            items_Q: their items one after the other, the oldest first.
            length_B: how many each has, at least one.
        """
        ends_B = np.cumsum(length_B)
        age_Q = np.repeat(ends_B, length_B) - 1 - np.arange(len(items_Q))
        weight_Q = (self.decay**age_Q).astype(np.float32)
        sum_BW = np.add.reduceat(self.white_IW[items_Q] * weight_Q[:, None], ends_B - length_B)
        norm_B1 = np.linalg.norm(sum_BW, axis=1, keepdims=True)
        return sum_BW / np.maximum(norm_B1, 1e-12) * np.float32(self.white_IW.shape[1] ** 0.5)
