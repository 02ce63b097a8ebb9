"""The engine of one process, in plain torch."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from laser.config.schema import TrainingConfig
from laser.engine.base import OptimizerState, adam, read_adam_state, scale_learning_rates, write_adam_state
from laser.engine.restarts import Restarts
from laser.models.batch import Batch
from laser.models.captured import CapturedReading
from laser.models.laser import Laser, LaserOutput, Reading


class PlainEngine:
    """Trains in this process with torch alone, without Ray, DeepSpeed and a process group."""

    def __init__(self, laser: Laser, config: TrainingConfig, device: torch.device) -> None:
        self.laser = laser.to(device)
        self.device = device
        self.rank, self.world_size = 0, 1
        self.config = config
        self.optimizer = adam(laser, config)
        self.restarts = Restarts(laser.llm, self.optimizer, self.sum, self.world_size)
        if config.capture and device.type == "cuda":
            laser.bituning.read_late = CapturedReading()

    def forward(self, batch: Batch, reading: Reading = Laser.represent) -> LaserOutput:
        self.restarts.before_pass()
        return self.laser(batch, reading)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, learning_rate_factor: float) -> None:
        parameters = self.laser.trainable_parameters().values()
        for parameter in parameters:  # as DeepSpeed does for weights that this loss does not reach
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.config.max_grad_norm:
            nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
        scale_learning_rates(self.optimizer.param_groups, learning_rate_factor, self.restarts.rate_factor)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.restarts.after_step()

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def whole(self, parameter: Tensor) -> Tensor:
        return parameter.detach()

    def trainable_state(self) -> dict[str, Tensor]:
        return {
            name: parameter.detach().to("cpu", torch.float32, copy=True)
            for name, parameter in (self.laser.trainable_parameters() | self.laser.statistics()).items()
        }

    def load_trainable(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in (self.laser.trainable_parameters() | self.laser.statistics()).items():
                parameter.copy_(state[name])

    def optimizer_state(self) -> OptimizerState:
        return read_adam_state(self.optimizer, self.laser.trainable_parameters())

    def load_optimizer(self, state: OptimizerState | None) -> None:
        write_adam_state(self.optimizer, self.laser.trainable_parameters(), state)
