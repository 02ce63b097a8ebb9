"""Everything that we use of DeepSpeed and that DeepSpeed does not promise.

Checked on deepspeed 0.19.8. Another version may drop or rename any of it, so read this file when the pin changes. The
module imports without DeepSpeed: whoever asks for a weight's whole shape may hold a plain model.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def whole_numel(parameter: nn.Parameter) -> int:
    """Count the numbers of the whole weight; under ZeRO-3 the parameter itself is empty."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def whole_shape(parameter: Tensor) -> torch.Size:
    """Return the shape of the whole weight; under ZeRO-3 the parameter itself is empty."""
    return getattr(parameter, "ds_shape", parameter.shape)


def held_weight(parameter: Tensor) -> Tensor:
    """Return what this worker holds of a weight: its flat shard under ZeRO-3, else the weight itself.

    The last worker's shard may end in padding.
    """
    return getattr(parameter, "ds_tensor", parameter)


def is_in_flight(parameter: Tensor) -> bool:
    """Return whether ZeRO-3 has begun to gather a weight for a pass to come, and nobody has waited for it yet."""
    status = getattr(parameter, "ds_status", None)
    return status is not None and status.name == "INFLIGHT"


@contextmanager
def mlflow_unseen() -> Iterator[None]:
    """Let DeepSpeed be imported as if MLflow were not installed.

    Its autotuner, which we do not use, imports MLflow where it can. That takes two seconds in every worker, and workers
    report to MLflow through the driver alone.
    """
    unseen = "mlflow" not in sys.modules
    if unseen:
        sys.modules["mlflow"] = None  # type: ignore[assignment]  # Python then says that there is no such module
    try:
        yield
    finally:
        if unseen:
            del sys.modules["mlflow"]


def skip_shared_memory_kernel() -> None:
    """Keep DeepSpeed from compiling its shared-memory all-reduce.

    It serves inference alone, and two cores compile it for more than a minute.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


@contextmanager
def sharding_init(config: dict[str, Any]) -> Iterator[None]:
    """Shard modules as they are built, as `deepspeed.zero.Init` does, and leave `torch.arange` exact meanwhile.

    Init replaces `torch.arange` by a function that rounds to the shards' dtype. Rotary frequencies are made by
    `torch.arange`, and bf16 has too few digits for them.
    """
    import deepspeed

    exact_arange = torch.arange
    with deepspeed.zero.Init(config_dict_or_path=config):
        torch.arange = exact_arange
        yield


def materialise_moments(zero: Any, sharded: bool) -> None:
    """Create Adam's moments for this worker's flat partitions now instead of in the first step.

    So a checkpoint can be restored before that step. And ZeRO-2 links parameters to moments once the first *group* has
    stepped, which leaves the other groups without.

    Args:
        zero: DeepSpeed's optimizer of ZeRO level 2 or 3.
        sharded: whether that is level 3.
    """
    for flat in zero.fp32_partitioned_groups_flat if sharded else zero.single_partition_of_fp32_groups:
        zero.optimizer.state[flat] = {
            "step": torch.zeros((), dtype=torch.float32, device=flat.device),
            "exp_avg": torch.zeros_like(flat, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(flat, requires_grad=False),
        }
    if not sharded:
        zero._lazy_init_hp_params_optimizer_state()


def write_sharded_moment(parameter: Any, moment: str, full: Tensor, rank: int) -> None:
    """Overwrite this worker's part of one of Adam's moments under ZeRO-3.

    DeepSpeed's own `safe_set_full_optimizer_state` fails where a weight does not divide by the workers, because it
    forgets the padding.
    """
    own, _ = parameter._z3_optimizer._get_fp32_opt_state_partition(
        parameter, release_swap_buffers=False, optim_state_key=moment
    )
    part = full.reshape(-1)[rank * own.numel() : (rank + 1) * own.numel()]
    own[: part.numel()].copy_(part)
