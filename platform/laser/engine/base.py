"""What the training loop asks of the engine under it, and the optimizer that all engines share.

`laser.engine.plain.PlainEngine` needs torch alone and one process. `laser.engine.deepspeed.DeepSpeedEngine` offers the
same with ZeRO over many workers.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from laser.config.schema import TrainingConfig
from laser.engine.restarts import Restarts
from laser.models.batch import Batch
from laser.models.laser import Laser, LaserOutput, Reading

OptimizerState = dict[str, Tensor]
"""`<parameter>.exp_avg` and `<parameter>.exp_avg_sq` in full shape, and `step` (one number), all on the CPU. A weight
whose moments have seen fewer steps than that has `<parameter>.step` too."""


class Engine(Protocol):
    """One worker's model, whole or sharded, its optimizer, and its way to the other workers."""

    laser: Laser
    device: torch.device
    rank: int
    world_size: int
    restarts: Restarts

    def forward(self, batch: Batch, reading: Reading = Laser.represent) -> LaserOutput:
        """Run the model on this worker's batch. Under ZeRO-3 all workers must call it equally often."""

    def backward(self, loss: Tensor) -> None:
        """Add this worker's gradient. The gradients of all workers are summed, not averaged."""

    def step(self, learning_rate_factor: float) -> None:
        """Update the trainable weights with the accumulated gradients, then clear them."""

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the elementwise sum over all workers (collective)."""

    def whole(self, parameter: Tensor) -> Tensor:
        """Return a parameter in its full shape, without gradient (collective)."""

    def trainable_state(self) -> dict[str, Tensor]:
        """Return trainable weights and statistics in full shape, float32, on the CPU of each worker (collective)."""

    def load_trainable(self, state: Mapping[str, Tensor]) -> None:
        """Overwrite the trainable weights and statistics (collective)."""

    def optimizer_state(self) -> OptimizerState:
        """Return Adam's moments in full shape (collective)."""

    def load_optimizer(self, state: OptimizerState | None) -> None:
        """Overwrite Adam's moments; None starts them afresh (collective)."""


def parameter_groups(laser: Laser, config: TrainingConfig) -> list[dict]:
    """Group virtual tokens, head, weights within the LLM, and all others, each with its own learning rate."""
    rates = {
        "llm": config.learning_rate if config.llm_learning_rate is None else config.llm_learning_rate,
        "tokens": config.learning_rate if config.token_learning_rate is None else config.token_learning_rate,
        "head": config.learning_rate if config.head_learning_rate is None else config.head_learning_rate,
        "others": config.learning_rate,
    }
    tokens = set(laser.virtual_token_names())

    def kind(name: str) -> str:
        if name in tokens:
            return "tokens"
        part = name.partition(".")[0]
        return part if part in rates else "others"

    named = laser.trainable_parameters()
    groups: list[dict] = [
        {"name": group, "params": [p for name, p in named.items() if kind(name) == group], "lr": rate}
        for group, rate in rates.items()
    ]
    groups = [group for group in groups if group["params"]]
    for group in groups:
        group["base_lr"] = group["lr"]
    return groups


def adam(laser: Laser, config: TrainingConfig) -> torch.optim.AdamW:
    """Make Adam with decoupled weight decay over the trainable weights; decay 0 is the paper's Adam.

    It is fused because its speed is that of the memory: one pass over the weights instead of ten.
    """
    return torch.optim.AdamW(parameter_groups(laser, config), weight_decay=config.weight_decay, fused=True)


def scale_learning_rates(groups: Iterable[dict], factor: float, llm_factor: float) -> None:
    """Set each group's learning rate to its own rate times the schedule's factor, within the LLM times another one."""
    for group in groups:
        group["lr"] = group["base_lr"] * factor * (llm_factor if group["name"] == "llm" else 1.0)


def read_adam_state(optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]) -> OptimizerState:
    """Copy Adam's moments to the CPU, by parameter name; empty before the first step."""
    state: OptimizerState = {}
    steps: OptimizerState = {}
    for name, parameter in named.items():
        moments = optimizer.state.get(parameter)
        if moments:
            state[f"{name}.exp_avg"] = moments["exp_avg"].to("cpu", copy=True)
            state[f"{name}.exp_avg_sq"] = moments["exp_avg_sq"].to("cpu", copy=True)
            steps[f"{name}.step"] = moments["step"].to("cpu", copy=True).reshape(1)
    if steps:
        most = state["step"] = max(steps.values())
        state |= {key: step for key, step in steps.items() if step < most}
    return state


def write_adam_state(
    optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter], state: OptimizerState | None
) -> None:
    """Overwrite Adam's moments by what `read_adam_state` returned; an absent or empty state starts Adam afresh."""
    optimizer.state.clear()
    if not state:
        return
    for name, parameter in named.items():
        optimizer.state[parameter] = {
            "step": state.get(f"{name}.step", state["step"]).reshape(()).to(parameter.device, copy=True),
            "exp_avg": state[f"{name}.exp_avg"].to(parameter.device, copy=True),
            "exp_avg_sq": state[f"{name}.exp_avg_sq"].to(parameter.device, copy=True),
        }
