"""Text features of items, as a frozen LLM gives them, whitened and scaled to length 1.

An LLM's mean-pooled states lie in a narrow cone, where all cosines are near 1. Whitened principal components spread
them (Su et al., arXiv 2103.15316; for recommendation UniSRec, KDD 2022).

Shape suffixes: I catalogue items, H LLM width, W whitened width.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class ReadsText(ABC):
    """A recommender that reads its items' text features beside their ids."""

    @abstractmethod
    def read_text(self, features_IH: NDArray[np.float32]) -> None:
        """Take the features of all items, float32 [I, H], before training or fitting."""


def whitened(features_IH: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Return the first `width` principal components at unit variance, each item's scaled to length 1: float32 [I, W].

    Components beyond the rank of the features, or beyond the number of items, are zero.
    """
    from sklearn.decomposition import PCA  # takes 1.5 s, which jobs without text features need not wait

    rank = int(min(width, len(features_IH) - 1, features_IH.shape[1]))
    components = PCA(rank, svd_solver="full").fit(features_IH.astype(np.float64))
    known = components.explained_variance_ > 1e-9 * components.explained_variance_[0]
    directions = components.components_[known] / np.sqrt(components.explained_variance_[known])[:, None]
    white_IW = np.zeros((len(features_IH), width))
    white_IW[:, : known.sum()] = (features_IH - components.mean_) @ directions.T
    norms_I1 = np.linalg.norm(white_IW, axis=1, keepdims=True)
    return (white_IW / np.maximum(norms_I1, 1e-12)).astype(np.float32)


def whitened_inputs(features_IH: NDArray[np.float32], width: int) -> Tensor:
    """Return `whitened` features with unit variance in each component, as a linear layer expects: float32 [I, W]."""
    return torch.from_numpy(whitened(features_IH, width) * width**0.5)
