"""DeepSpeed ZeRO under the training loop; beside `deepspeed_private` the only module that imports deepspeed.

ZeRO-3 keeps 1/world_size of every tensor on each worker, also of the frozen LLM. The model is built empty inside
`deepspeed.zero.Init`, and each worker then reads its own slice of each tensor from the safetensors file.

Checkpoints are not in DeepSpeed's own format, which cannot be read at another world size. The trainable weights and
their moments are small, so they are gathered and written in full shape (`laser.training.run.checkpoint`).
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from laser.config.schema import LLMConfig, TrainingConfig
from laser.engine.base import (
    OptimizerState,
    adam,
    read_adam_state,
    scale_learning_rates,
    write_adam_state,
)
from laser.engine.deepspeed_private import (
    held_weight,
    is_in_flight,
    materialise_moments,
    mlflow_unseen,
    sharding_init,
    skip_shared_memory_kernel,
    whole_numel,
    whole_shape,
    write_sharded_moment,
)
from laser.engine.memory import GATHERED_BLOCKS
from laser.engine.restarts import Restarts
from laser.llm.loading import Decoder, decoder_weights, empty_llm, llm_config
from laser.models.batch import Batch
from laser.models.laser import Laser, LaserOutput, Reading

with mlflow_unseen():
    import deepspeed
    from deepspeed.utils import safe_get_full_optimizer_state

logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
skip_shared_memory_kernel()


def deepspeed_config(config: TrainingConfig, largest_block: int = 0) -> dict[str, Any]:
    """Return DeepSpeed's configuration of an experiment.

    Trainable weights are float32, and the frozen LLM keeps the dtype that it was loaded with. So neither `fp16` nor
    `bf16` is switched on, because either would cast both.

    Args:
        config: says the ZeRO level and the clipping.
        largest_block: weights of the largest block. Under ZeRO-3 the next block is fetched while one runs, and a block
            is given back as soon as it has run. (DeepSpeed's own limits of 10⁹ weights keep small models whole.)
    """
    return {
        "train_micro_batch_size_per_gpu": 1,  # bookkeeping only: batches are ours
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,  # step() ends the accumulation after any number of micro-batches
        "gradient_clipping": config.max_grad_norm,
        "zero_optimization": {
            "stage": config.zero_stage,
            "contiguous_gradients": True,
            "overlap_comm": config.zero_stage == 3,
            "stage3_param_persistence_threshold": 0,  # nothing stays whole, so memory falls as 1 / workers
            "stage3_prefetch_bucket_size": largest_block,
            "stage3_max_live_parameters": GATHERED_BLOCKS * largest_block,
            "stage3_max_reuse_distance": 0,
        },
        "zero_allow_untested_optimizer": False,
        "steps_per_print": None,
        "wall_clock_breakdown": False,
    }


def sharded_llm(directory: Path, dtype: torch.dtype, llm_settings: LLMConfig, training: TrainingConfig) -> Decoder:
    """Build the frozen decoder under ZeRO-3 in shards; no worker ever holds it whole.

    Inside `zero.Init` each module's tensors are split as soon as they are made. Then each worker reads its own slice of
    one tensor after the other from the memory-mapped file. So the peak is the shard plus the largest single tensor.
    """
    # deepspeed 0.19.8 ignores Init's own dtype argument where the device lacks fp16, so the config says the dtype.
    settings = deepspeed_config(training) | {"bf16": {"enabled": dtype == torch.bfloat16}}
    with sharding_init(settings):
        config = llm_config(directory, llm_settings.num_layers, llm_settings.trust_remote_code)
        llm = empty_llm(config, dtype, llm_settings)
    parameters: dict[str, Any] = dict(llm.named_parameters())
    rank = dist.get_rank()
    for name, weight in decoder_weights(llm, directory):
        shard = held_weight(parameters[name])
        flat = weight.reshape(-1)
        own = flat[rank * shard.numel() : (rank + 1) * shard.numel()]
        shard.data[: own.numel()].copy_(own)  # the last shard may end in padding
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    return llm.eval()


class DeepSpeedEngine:
    """One worker's model under ZeRO level 0, 2 or 3. Needs an initialised process group."""

    def __init__(self, laser: Laser, config: TrainingConfig, device: torch.device) -> None:
        deepspeed.init_distributed(dist_backend=dist.get_backend())
        self.laser = laser
        self.device = device
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.level = config.zero_stage
        if self.level != 3:
            laser.to(device)
        self.engine, *_ = deepspeed.initialize(
            model=laser,
            optimizer=adam(laser, config),
            config=deepspeed_config(config, _largest_block(laser)),
            dist_init_required=False,
        )
        if self.level:
            materialise_moments(self.engine.optimizer, sharded=self.level == 3)
        self.restarts = Restarts(laser.llm, self._inner_optimizer(), self.sum, self.world_size)

    def forward(self, batch: Batch, reading: Reading = Laser.represent) -> LaserOutput:
        self.restarts.before_pass()
        return self.engine(batch, reading)

    def backward(self, loss: Tensor) -> None:
        # DeepSpeed averages the workers' gradients. Ours are parts of one loss, so they must be summed.
        self.engine.backward(loss * self.world_size, scale_wrt_gas=False)

    def step(self, learning_rate_factor: float) -> None:
        scale_learning_rates(self.engine.optimizer.param_groups, learning_rate_factor, self.restarts.rate_factor)
        self.engine.step()
        self.restarts.after_step()

    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def whole(self, parameter: Tensor) -> Tensor:
        with self._gathered(parameter):
            return parameter.detach().clone()

    def trainable_state(self) -> dict[str, Tensor]:
        named = self.laser.trainable_parameters()
        state = {name: self.whole(parameter).to("cpu", torch.float32) for name, parameter in named.items()}
        return state | {name: value.to("cpu", copy=True) for name, value in self.laser.statistics().items()}

    def load_trainable(self, state: Mapping[str, Tensor]) -> None:
        for name, parameter in self.laser.trainable_parameters().items():
            with self._gathered(parameter, writer=0), torch.no_grad():
                parameter.copy_(state[name])
        for name, value in self.laser.statistics().items():
            value.copy_(state[name])
        if self.level:
            self.engine.optimizer.refresh_fp32_params()

    def optimizer_state(self) -> OptimizerState:
        inner = self._inner_optimizer()
        named = self.laser.trainable_parameters()
        if not self.level:
            return read_adam_state(inner, named)
        state: OptimizerState = {"step": next(iter(inner.state.values()))["step"].to("cpu", copy=True).reshape(1)}
        for name, parameter in named.items():
            for moment in ("exp_avg", "exp_avg_sq"):
                full = safe_get_full_optimizer_state(parameter, moment)
                state[f"{name}.{moment}"] = full.detach().to("cpu", copy=True).reshape(whole_shape(parameter))
        return state

    def load_optimizer(self, state: OptimizerState | None) -> None:
        inner = self._inner_optimizer()
        named = self.laser.trainable_parameters()
        if not self.level:
            write_adam_state(inner, named, state)
            return
        for moments in inner.state.values():
            for name in ("exp_avg", "exp_avg_sq", "step"):
                moments[name].zero_()
            if state:
                moments["step"].copy_(state["step"].reshape(()))
        if not state:
            return
        for name, parameter in named.items():
            for moment in ("exp_avg", "exp_avg_sq"):
                self._write_moment(parameter, moment, state[f"{name}.{moment}"])

    def _inner_optimizer(self) -> torch.optim.Optimizer:
        return self.engine.optimizer.optimizer if self.level else self.engine.optimizer

    def _write_moment(self, parameter: Any, moment: str, full: Tensor) -> None:
        if self.level == 3:
            write_sharded_moment(parameter, moment, full, self.rank)
        else:
            parameter.set_full_hp_param(full, moment)

    def _gathered(self, parameter: Tensor, writer: int | None = None) -> Any:
        if is_in_flight(parameter):  # prefetched after an evaluation, for a backward pass that does not come
            self.engine.empty_partition_cache()
        return deepspeed.zero.GatheredParameters([parameter], modifier_rank=writer, enabled=self.level == 3)


def _largest_block(laser: Laser) -> int:
    """Count the weights of the module that has most of its own; ZeRO-3 gathers them at once."""
    modules = laser.modules()
    return max(sum(whole_numel(parameter) for parameter in module.parameters(recurse=False)) for module in modules)
