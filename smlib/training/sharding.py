"""Weights, gradients and the optimiser's state cut into one piece a process: FSDP2, torch's `fully_shard`.

Whoever launches the processes asks for it as Accelerate has it (`accelerate launch --use_fsdp --fsdp_version 2`, the
same in the file that `accelerate config` writes, or ACCELERATE_USE_FSDP and FSDP_VERSION in the environment). The
cutting is done here and not by Accelerate, which leaves a model on CPUs whole without a word, and finds a piece of the
optimiser's by its address, which the empty pieces of small parameters share.

A unit is gathered where its forward pass begins and let go where it ends. Each layer is one, and whatever is outside
of the layers is the last one, around the whole objective (`smlib.training.module`): embeddings, last norm and
unembedding are gathered once a step, however many chunks of logits there are. The row of `<bkspc>`, the offset head
and a critic's scalars stay whole, in float32 whatever the weights are in, and their gradients are added up here.

Between two steps there is the policy `whole`, without any trace of FSDP: for rollouts, whose passes are as many as
their longest text asks for and so another number in every process, for evaluation, and for files.
"""

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from smlib.policies.policy import Policy
from smlib.training.module import PolicyUnderTraining
from smlib.training.processes import Processes
from smlib.training.sharding_plan import Sharding, check_can_be_split, units, whole_anyway

_OF: "weakref.WeakKeyDictionary[Policy, Shards]" = weakref.WeakKeyDictionary()


def whole(policy: Policy, device: torch.device | str | None = None) -> contextlib.AbstractContextManager[None]:
    """The policy with all its weights and no hooks, for a while, in every process; as it is where it is not split.

    Args:
        device: where the gathered weights are put; by default where the pieces are.
    """
    shards = _OF.get(policy)
    return contextlib.nullcontext() if shards is None else shards.whole(device)


def full(value: Tensor) -> Tensor:
    """A tensor from its pieces; every process has to ask. One that is not split is returned."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def put(parameter: Tensor, value: Tensor) -> None:
    """Overwrites a parameter, or this process's piece of it, by a value that every process has."""
    parameter.copy_(_cut(value, parameter))


def _cut(value: Tensor, like: Tensor) -> Tensor:
    if not hasattr(like, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(value.to(like.device, like.dtype), mesh, placements, src_data_rank=None)


def whole_state(optimizer: Any, keep: bool = True) -> dict[str, Any]:
    """The state of an optimiser with whole tensors, on the CPU, as one process would have it; every process has to ask.

    Args:
        keep: False forgets the tensors as they come, where another process writes them.
    """

    def joined(value: Any) -> Any:
        if not hasattr(value, "full_tensor"):
            return value
        gathered = full(value)
        return gathered.cpu() if keep else None

    own: dict[str, Any] = optimizer.state_dict()  # its dictionaries are those that the optimiser goes on with
    return {**own, "state": {i: {n: joined(v) for n, v in one.items()} for i, one in own["state"].items()}}


def _cut_state(optimizer: torch.optim.Optimizer, given: dict[str, Any]) -> dict[str, Any]:
    """What `load_state_dict` is given, with this process's pieces of the whole tensors."""
    own = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [i for group in given["param_groups"] for i in group["params"]]
    state = dict(given["state"])
    for number, p in zip(numbers, own, strict=False):  # another number of them is for torch to refuse
        if number in state:
            state[number] = {
                name: _cut(v, p) if torch.is_tensor(v) and v.shape == p.shape and v.ndim else v
                for name, v in state[number].items()
            }
    return {**given, "state": state}


class Shards:
    """A policy that is split over the processes.

    Args:
        model: around the policy; is cut in place. how: as it was asked for.

    Raises:
        ValueError: weights that cannot be split.
    """

    def __init__(self, model: PolicyUnderTraining, processes: Processes, how: Sharding) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        policy = model.policy
        check_can_be_split(policy)
        self.processes, self.kept = processes, whole_anyway(policy)
        layers = units(policy, how.layers)
        for p in self.kept:
            p.data = p.data.to(processes.device)
        self.plain = {m: _Face.of(m) for m in model.modules()}
        before = {m: set(vars(m)) for m in self.plain}
        mesh = init_device_mesh(processes.device.type, (processes.count,))
        for layer in layers:
            fully_shard(layer, mesh=mesh, reshard_after_forward=how.reshard, ignored_params=set(self.kept))
        fully_shard(model, mesh=mesh, ignored_params=set(self.kept))
        self.added = {m: vars(m).keys() - names for m, names in before.items()}
        self.policy = weakref.ref(policy)
        _OF[policy] = self

    def hold(self, optimizer: torch.optim.Optimizer) -> None:
        """Lets the optimiser of the pieces load a state of whole tensors."""
        optimizer.register_load_state_dict_pre_hook(_cut_state)

    def add_up(self) -> None:
        """Averages the gradients of what is whole anyway, as `fully_shard` does those of the pieces."""
        there = self.processes.gathered([int(p.grad is not None) for p in self.kept])
        for p, *flags in zip(self.kept, *there, strict=True):
            if any(flags):
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                torch.distributed.all_reduce(p.grad)
                p.grad /= self.processes.count

    @contextlib.contextmanager
    def whole(self, device: torch.device | str | None = None) -> Iterator[None]:
        """See `whole`."""
        taken = self._gathered(device)
        faces = {module: face.swapped(module, self.added[module]) for module, face in self.plain.items()}
        try:
            yield
        finally:
            for module, face in faces.items():
                face.swapped(module)
            for module, name, piece in taken:
                module._parameters[name] = piece

    def dissolve(self) -> None:
        """Makes the policy whole for good."""
        from torch.distributed._composable_state import _module_state_mapping

        self._gathered(None)
        for module, face in self.plain.items():
            face.swapped(module, self.added[module])
            _module_state_mapping.pop(module, None)  # else it could not be split again
        policy = self.policy()
        if policy is not None:
            del _OF[policy]

    def _gathered(self, device: torch.device | str | None) -> list[tuple[nn.Module, str, Any]]:
        """Puts whole parameters into the places of the pieces; the pieces and their places."""
        taken: list[tuple[nn.Module, str, Any]] = []
        made: dict[int, nn.Parameter] = {}
        with torch.no_grad():
            for module in self.plain:
                for name, piece in module._parameters.items():
                    if piece is None or not hasattr(piece, "full_tensor"):
                        continue
                    if id(piece) not in made:  # tied weights stay tied
                        value = full(piece.detach())
                        value = value if device is None else value.to(device)
                        made[id(piece)] = nn.Parameter(value, requires_grad=piece.requires_grad)
                    taken.append((module, name, piece))
                    module._parameters[name] = made[id(piece)]
        return taken


class _Face:
    """Class, hooks and added attributes of a module: one of the two looks that it can have."""

    def __init__(self, kind: type, hooks: dict[str, Any], added: dict[str, Any]) -> None:
        self.kind, self.hooks, self.added = kind, hooks, added

    @classmethod
    def of(cls, module: nn.Module) -> "_Face":
        """The look that a module has now; what is put on or taken off later does not change it."""
        own = vars(module).items()
        return cls(type(module), {n: v.copy() for n, v in own if n.endswith("_hooks") and isinstance(v, dict)}, {})

    def swapped(self, module: nn.Module, added: Iterable[str] = ()) -> "_Face":
        """Gives the module this look; the look that it had, with those of its attributes that `added` names."""
        own = vars(module)
        had = _Face(type(module), {n: own[n] for n in self.hooks}, {n: own.pop(n) for n in added if n in own})
        own.update(self.hooks)
        own.update(self.added)
        module.__class__ = self.kind
        return had
