"""The same logical weights however they are sharded, over 2 and 4 processes, also straight from the meta device."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor

from firstlight.graph import trace
from firstlight.initialization import SCHEMES, Plan, apply

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch.distributed is not built in")


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Flatten(), nn.Linear(10 * 4 * 4, 7))


def plans() -> dict[str, Plan]:
    graph = trace(network(), torch.zeros(2, 3, 6, 6))
    return {scheme: SCHEMES[scheme](graph) for scheme in ("kaiming", "truncated-normal", "orthogonal")}


def sharded(model: nn.Module, mesh: object, placements: list[Placement]) -> nn.Module:
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            fits = [Replicate() if isinstance(p, Shard) and p.dim >= parameter.dim() else p for p in placements]
            module.register_parameter(name, nn.Parameter(distribute_tensor(parameter.detach(), mesh, fits)))
    return model


def work(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    try:
        meshes = [(init_device_mesh("cpu", (world,)), [[Shard(0)], [Shard(1)], [Replicate()]])]
        if world == 4:
            meshes.append(
                (
                    init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "shards")),
                    [[Shard(0), Shard(1)], [Replicate(), Shard(1)]],
                )
            )
        for scheme, plan in plans().items():
            reference = network()
            expected = apply(plan, reference, seed=5)
            for mesh, layouts in meshes:
                for placements in layouts:
                    check(plan, scheme, reference, expected, sharded(network(), mesh, placements))
        meta = sharded(network().to("meta"), meshes[0][0], [Shard(0)])
        apply(plan, meta, seed=5)
        assert all(torch.equal(whole(p), reference.get_parameter(n)) for n, p in meta.named_parameters())
        check_fsdp(plan, reference, [mesh for mesh, _ in meshes])
        Path(folder, f"done{rank}").touch()
    finally:
        dist.destroy_process_group()


def check(plan: Plan, scheme: str, reference: nn.Module, expected: object, model: nn.Module) -> None:
    report = apply(plan, model, seed=5)
    for name, parameter in model.named_parameters():
        assert torch.equal(whole(parameter), reference.get_parameter(name)), (scheme, name, parameter.placements)
    for one, two in zip(report.parameters, expected.parameters, strict=True):
        assert one.measured_std == pytest.approx(two.measured_std, rel=1e-4, abs=1e-6)


def check_fsdp(plan: Plan, reference: nn.Module, meshes: list[object]) -> None:
    """FSDP2, shards and (on two mesh dimensions) copies of shards, from memory and from the meta device; 7 and 10 rows
    do not divide evenly. The weights are still those after a step's forward and backward pass, and so are gradients.
    """
    x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    reference(x).square().mean().backward()
    for mesh in meshes:
        for device in ("cpu", "meta"):
            model = network().to(device)
            for layer in (model[0], model[3]):
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
            apply(plan, model, seed=5)
            for step in range(2):
                for name, parameter in model.named_parameters():
                    assert torch.equal(whole(parameter), reference.get_parameter(name)), (name, mesh, device, step)
                model.zero_grad()
                model(x).square().mean().backward()
            for name, parameter in model.named_parameters():
                torch.testing.assert_close(whole(parameter.grad), reference.get_parameter(name).grad)


def whole(parameter: Tensor) -> Tensor:
    assert isinstance(parameter, DTensor)
    return parameter.detach().full_tensor()


@pytest.mark.parametrize("world", [2, 4])
def test_shards_are_the_parts_of_the_same_weights(world: int, tmp_path: Path) -> None:
    mp.spawn(work, (world, str(tmp_path)), nprocs=world)
    assert len(list(tmp_path.glob("done*"))) == world
