"""Weights that are shared out over processes (torch's `fully_shard`, FSDP2), and whole ones again for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor


class FullySharded(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, over all processes; a checkpoint is one file with whole weights.

    So a run that trained with it is read, judged and gone on with as any other.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Lightning's own choice would be one shard for each machine."""
        self._data_parallel_size = self.num_processes * self.num_nodes
        super().setup_environment()


def shard(net: nn.Module, mesh: DeviceMesh) -> None:
    """Leave every process its share of a network's weights; those of a block come together when it is evaluated.

    Blocks are the members of module lists, such as a transformer's; a network without any is one. Once is enough.
    """
    if isinstance(net, FSDPModule):
        return
    for part in list(net.modules()):
        if isinstance(part, nn.ModuleList):
            for block in part:
                fully_shard(block, mesh=mesh)
    fully_shard(net, mesh=mesh, reshard_after_forward=True)  # or after a validation its own weights would stay whole


def is_sharded(net: nn.Module) -> bool:
    """Whether processes share a network's weights."""
    return isinstance(net, FSDPModule)


def own_part(weight: Tensor) -> Tensor:
    """What this process has of a weight: all of it, where it is not shared; changes in place are changes of it."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def whole(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state with its tensors whole, those that were shared on the CPU; all processes must ask for it."""
    return {name: value.full_tensor().cpu() if isinstance(value, DTensor) else value for name, value in state.items()}
