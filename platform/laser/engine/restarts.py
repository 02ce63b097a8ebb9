"""Moves the subspaces of PESO-like finetuning between an engine's steps (`laser.models.finetuning.peso`).

Before a restart, the ordinary backward passes of the last steps also add up the gradient with respect to each whole
weight. So a probe costs no pass of its own: one product more for each of these maps. The gradients of all maps are held
until the restart, which lets go of one after the other.
"""

from collections.abc import Callable
from statistics import fmean

import torch
from torch import Tensor, nn

from laser.config.families.finetuning import PesoConfig
from laser.engine.subspace import (
    balanced,
    change_of_rows,
    effective_rank,
    leading,
    share_in_rows,
    turned_moments,
)
from laser.models.finetuning.peso import CLOCK, PesoLinear


class Restarts:
    """Counts an engine's steps, and restarts when it is time; without PESO's maps it does nothing.

    Args:
        llm: with PESO's maps or without.
        optimizer: Adam, with the state of each weight as it is.
        total: returns the sum over all workers.
        num_workers: of the engine, whose gradients are those of a loss that is multiplied by this number.
    """

    def __init__(
        self, llm: nn.Module, optimizer: torch.optim.Optimizer, total: Callable[[Tensor], Tensor], num_workers: int
    ) -> None:
        self.llm, self.optimizer, self.total, self.num_workers = llm, optimizer, total, num_workers
        self.maps = [module for module in llm.modules() if isinstance(module, PesoLinear)]
        self._batches = 0  # that the gradients are summed over
        self._shares: list[tuple[float, float]] = []

    @property
    def rate_factor(self) -> float:
        """Factor on the learning rates within the LLM in the step to come."""
        if not self.maps or not self._config.rewarm_steps:
            return 1.0
        return min(1.0, (self._steps_and_restarts()[0] + 1) / self._config.rewarm_steps)

    def before_pass(self) -> None:
        """Have the gradients of the whole weights added up, if the step that the pass belongs to is near a restart."""
        if not self.maps or not torch.is_grad_enabled() or self.maps[0].gradient_OI is not None:
            return
        steps, restarts = self._steps_and_restarts()
        if steps < self._period(restarts) - self._config.probe_batches:
            return
        if not restarts or self._config.variant == "restart":
            for module in self.maps:
                module.gradient_OI = torch.zeros_like(module.anchor_OI)

    def after_step(self) -> None:
        """Count a step that trained the LLM, and restart after the last one of a period."""
        if not any(module.was_trained for module in self.maps):
            return
        for module in self.maps:
            module.was_trained = False
        self._batches += self.maps[0].gradient_OI is not None
        steps, restarts = self._steps_and_restarts()
        clock_2 = getattr(self.llm, CLOCK)
        clock_2[0] += 1
        if steps + 1 < self._period(restarts):
            return
        for module in self.maps:
            if restarts and self._config.variant == "warm":
                self._rebalance(module)
            else:
                self._move(module)
        self._batches = 0
        clock_2.copy_(torch.tensor([0.0, restarts + 1.0]))

    def end_epoch(self) -> dict[str, float]:
        """Return the figures of an epoch, means over the maps, and forget a gradient that no restart has used.

        A checkpoint follows each epoch. It holds no such gradient, so a run that resumes has none either.
        """
        if not self.maps:
            return {}
        for module in self.maps:
            module.gradient_OI = None
        self._batches = 0
        deltas = (module.anchor_OI - module.base.weight.float() + module.product() for module in self.maps)
        pairs = [weight for module in self.maps for weight in module.parameters() if weight.requires_grad]
        figures = {
            "finetuning/restarts": self._steps_and_restarts()[1],
            "finetuning/effective_rank": fmean(map(effective_rank, deltas)),
            "finetuning/optimizer_bytes": float(sum(2 * pair.numel() * pair.element_size() for pair in pairs)),
        }
        if self._shares:
            before, after = zip(*self._shares, strict=True)
            figures |= {"finetuning/energy_before": fmean(before), "finetuning/energy_after": fmean(after)}
        self._shares = []
        return figures

    @property
    def _config(self) -> PesoConfig:
        return self.maps[0].config

    def _steps_and_restarts(self) -> tuple[float, float]:
        steps, restarts = getattr(self.llm, CLOCK).tolist()
        return steps, restarts

    def _period(self, restarts: float) -> int:
        return self._config.restart_every if restarts else self._config.probe_batches

    @torch.no_grad()
    def _move(self, module: PesoLinear) -> None:
        """Merge the product into the anchor, and open the leading subspace of the gradient."""
        assert module.gradient_OI is not None, "a restart has a probe before it"
        gradient_OI = self.total(module.gradient_OI) / (self.num_workers * self._batches)
        module.gradient_OI = None
        if not gradient_OI.isfinite().all():  # the loss is not finite either, which ends the training
            return
        config, old_RI = module.config, module.down_RI.clone()
        chosen = leading(gradient_OI, len(old_RI))
        self._shares.append((share_in_rows(gradient_OI, old_RI), chosen.share))
        module.anchor_OI += module.product()
        module.down_RI.copy_(chosen.right_RI)
        if config.init == "zero":
            module.up_OR.zero_()
        else:
            module.up_OR.copy_(chosen.left_OR * chosen.sizes_R * (-config.gradient_rate / config.scale))
        if config.state == "aligned":
            self._turn(module.up_OR, change_of_rows(old_RI, module.down_RI))
            self._reset(module.down_RI)  # the left matrix is zero, and so is its gradient
        elif config.state == "reset":
            self._reset(module.up_OR)
            self._reset(module.down_RI)

    @torch.no_grad()
    def _rebalance(self, module: PesoLinear) -> None:
        """Give both matrices the same size, with the same product."""
        factors = balanced(module.up_OR, module.down_RI)
        if factors is None:
            return
        old_OR, old_RI = module.up_OR.clone(), module.down_RI.clone()
        module.up_OR.copy_(factors[0])
        module.down_RI.copy_(factors[1])
        if module.config.state == "aligned":
            self._turn(module.up_OR, change_of_rows(old_RI, module.down_RI))
            self._turn(module.down_RI, change_of_rows(old_OR.T, module.up_OR.T), of_rows=True)
        elif module.config.state == "reset":
            self._reset(module.up_OR)
            self._reset(module.down_RI)

    def _turn(self, weight: Tensor, turn_RR: Tensor, of_rows: bool = False) -> None:
        moments = self._moments(weight)
        if not moments or not moments["step"]:
            return
        first, second = moments["exp_avg"], moments["exp_avg_sq"]
        if of_rows:
            first, second = first.T, second.T
        betas = self.optimizer.defaults["betas"]
        new_first, new_second = turned_moments(first, second, turn_RR, float(moments["step"]), betas)
        first.copy_(new_first)
        second.copy_(new_second)

    def _reset(self, weight: Tensor) -> None:
        """Start Adam afresh for one weight, its count of steps too, by which it corrects the moments' bias."""
        for value in self._moments(weight).values():
            value.zero_()

    def _moments(self, weight: Tensor) -> dict[str, Tensor]:
        return self.optimizer.state.get(weight, {}) if isinstance(weight, nn.Parameter) else {}
