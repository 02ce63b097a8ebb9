"""gSASRec (Petrov and Macdonald, RecSys 2023, arXiv 2308.07192): SASRec with many negatives and a generalised loss.

Training on sampled negatives sees too few of them, and so learns probabilities that are too high. gBCE is the binary
cross-entropy in which the positive's probability has a power β ≤ 1 (Eq. 9 and 12 of the paper):

    L = -1 / (S + 1) (β log σ(s⁺) + Σ log(1 - σ(s⁻))),   β = α (t (1 - 1/α) + 1/α),   α = S / (I - 1)

S is the number of negatives. With t = 0 it is the plain loss, and with t = 1 its optimum is the softmax's.

Shape suffixes: B batch, N history items, C recommender width, I catalogue items, M predicted positions, S negatives.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from laser.config.families.recommenders import GSASRecConfig
from laser.families.sasrec import SASRec


class GSASRec(SASRec):
    """gSASRec.

    Args:
        num_negatives: S, drawn evenly for each next item from all items but that one.
        calibration: t.
        sizes: those of `SASRec`, whose blocks these are.
    """

    def __init__(self, num_items: int, num_negatives: int, calibration: float, **sizes: int | float) -> None:
        super().__init__(num_items, **sizes)  # type: ignore[arg-type]
        self.num_negatives = num_negatives
        share = min(1.0, num_negatives / max(1, num_items - 1))
        self.power = share * (calibration * (1 - 1 / share) + 1 / share)
        """β."""

    def loss(self, item_ids_BN: Tensor, mask_BN: Tensor, generator: torch.Generator) -> Tensor:
        """Return gBCE, averaged over every next item. See the base class."""
        predicted_BN = mask_BN[:, 1:]
        states_MC = self._states(item_ids_BN[:, :-1])[predicted_BN]
        positives_M = item_ids_BN[:, 1:][predicted_BN]
        logits_M = (states_MC * self._items(positives_M)).sum(dim=-1)
        negatives_MSC = self._items(self._negatives(positives_M, generator))
        against_MS = F.logsigmoid(-(negatives_MSC @ states_MC[..., None]).squeeze(-1))
        likelihood_M = self.power * F.logsigmoid(logits_M) + against_MS.sum(dim=-1)
        return -likelihood_M.mean() / (self.num_negatives + 1)

    def _negatives(self, positives_M: Tensor, generator: torch.Generator) -> Tensor:
        """Draw items_MS, each any item but the positive one with the same probability."""
        others = max(1, self.num_items - 1)
        drawn_MS = torch.randint(others, (len(positives_M), self.num_negatives), generator=generator)
        drawn_MS = drawn_MS.to(positives_M.device)
        return (drawn_MS + (drawn_MS >= positives_M[:, None])).clamp(max=self.num_items - 1)


def build(config: GSASRecConfig, num_items: int) -> GSASRec:
    """Build an untrained model from the settings of its section."""
    return GSASRec(num_items, config.num_negatives, config.calibration, **config.sizes)
