"""Every operator that a network calls, in order, found by running it on shapes: meta tensors, which hold no numbers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from effvit.analysis.macs import ATTENTION, Products, groups_of, products_of
from effvit.analysis.traffic import tensors_in, traffic_of
from effvit.errors import ConfigError, first_line

_OF_ATTENTION = ("query", "key", "value")
"""What the arguments of a function-taking operator are called, which has no schema: the only known one is attention."""


@dataclass(frozen=True, kw_only=True)
class OperatorCall:
    """One call of an operator."""

    operator: str
    """Name as torch and its profiler have it, such as `aten::convolution`, without the overload. Attention is
    `aten::scaled_dot_product_attention` whichever kernel computes it."""
    module: str
    """Dotted name of the innermost module that was running; "" for the network itself."""
    num_macs: int
    """Multiply-accumulates, see `effvit.analysis.macs`."""
    num_activations: int
    """Elements of the results of convolutions and matrix products; 0 for other operators."""
    bytes_read: int
    """Of the tensors it takes, weights included, each once."""
    bytes_written: int
    """Of the tensors it gives."""
    shapes: tuple[tuple[int, ...], ...]
    """Of the tensors it takes, in the order of its arguments."""
    is_view: bool
    """Whether nothing moves: it looks at memory in another way, or sets some aside."""
    num_groups: int = 1
    """Of a convolution's channels; 1 for any other operator."""
    is_counted: bool = True
    """False where it may multiply and no formula is known: its MACs are then 0 because nobody knows them."""

    @property
    def bytes_moved(self) -> int:
        """Read and written."""
        return self.bytes_read + self.bytes_written

    @property
    def is_depthwise(self) -> bool:
        """Whether it is a convolution, transposed or not, in which no channel of the input meets another."""
        return self.num_groups > 1 and self.num_groups == self.shapes[0][1]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What `trace` saw."""

    calls: tuple[OperatorCall, ...]
    """In the order of execution."""
    dtype: str
    """Of the input, which is that of the first parameter."""
    traced_on: str
    """`meta`, or the device of the real tensors that were needed."""
    reason: str = ""
    """Why real tensors were needed."""


def trace(network: nn.Module, shape: tuple[int, ...]) -> Trace:
    """Run a copy of a network in evaluation mode and write down what it calls.

    Operators that torch writes in other operators (`linear`, `matmul`, `einsum`, `reshape`) are seen as those others,
    as the profiler sees them; attention stays whole. Ready-made kernels for whole layers (torch's fast path of
    `nn.MultiheadAttention` and `nn.TransformerEncoderLayer`) are off, and what is compiled runs uncompiled.

    Args:
        network: Any module that takes one tensor; it is left as it is.
        shape: Of the input, batch first.

    Returns:
        The calls, and whether shapes were enough.

    Raises:
        ConfigError: If the network does not run on such an input.
    """
    try:
        return _run(network, shape, torch.device("meta"))
    except Exception as error:  # whatever an operator without shapes, or a network that reads its numbers, raises
        reason = first_line(error)
    device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    try:
        return replace(_run(network, shape, device), reason=reason)
    except Exception as error:
        size = "x".join(map(str, shape))
        raise ConfigError(f"the network does not run on an input of {size}: {first_line(error)}") from error


def _run(network: nn.Module, shape: tuple[int, ...], device: torch.device) -> Trace:
    """The calls on a device."""
    # In inference mode, and on tensors made in it, operators arrive whole: attention can be kept so.
    with torch.inference_mode(), _plain_kernels():
        copied = _copy(network, device).eval()
        dtype = next((p.dtype for p in copied.parameters() if p.is_floating_point()), torch.get_default_dtype())
        picture = torch.zeros(shape, dtype=dtype, device=device)
        modules: list[str] = [""]
        for name, module in copied.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # takes no hooks: its calls belong to the module around it
            module.register_forward_pre_hook(partial(_enter, modules, name), prepend=True)
            module.register_forward_hook(partial(_leave, modules), always_call=True)
        with _Recorder(modules) as recorder:
            copied(picture)
    return Trace(calls=tuple(recorder.calls), dtype=str(dtype).removeprefix("torch."), traced_on=device.type)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operator that is called inside the block."""

    supports_higher_order_operators = True

    def __init__(self, modules: Sequence[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[OperatorCall] = []
        self.modules = modules

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload):  # one that takes functions, such as `flex_attention`
            result = func(*args, **kwargs)
            self._note(func, func._name, dict(zip(_OF_ATTENTION, args, strict=False)) | kwargs, result)
            return result
        name: str = func._schema.name
        if name != ATTENTION and is_composite(func):
            with self:  # torch's own way of writing it, not the one for compilers, which `decompose` would prefer
                return func._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
        args, kwargs = _on_one_device(args, kwargs)
        result = func(*args, **kwargs)
        names = (argument.name for argument in func._schema.arguments)
        if func.namespace != "profiler":  # marks for the profiler do nothing
            self._note(func, name, dict(zip(names, args, strict=False)) | kwargs, result)
        return result

    def _note(self, function: Any, name: str, arguments: dict[str, Any], result: object) -> None:
        """Write one call down."""
        outputs = list(tensors_in(result))
        traffic = traffic_of(function, arguments, outputs)
        products = Products(0, 0) if traffic.is_view else products_of(function, arguments, outputs)
        self.calls.append(
            OperatorCall(
                operator=name,
                module=self.modules[-1],
                num_macs=0 if products is None else products.num_macs,
                num_activations=0 if products is None else products.num_activations,
                bytes_read=traffic.bytes_read,
                bytes_written=traffic.bytes_written,
                shapes=tuple(tuple(tensor.shape) for value in arguments.values() for tensor in tensors_in(value)),
                is_view=traffic.is_view,
                num_groups=groups_of(name, arguments),
                is_counted=products is not None,
            )
        )


def is_composite(function: Any) -> bool:
    """Whether torch has written an operator in other operators, the same on every device."""
    name: str = function.name()
    # TorchScript has operators that the dispatcher has not, such as `aten::select.t`.
    return torch._C._dispatch_has_kernel(name) and torch._C._dispatch_has_kernel_for_dispatch_key(
        name, "CompositeImplicitAutograd"
    )


def _on_one_device(args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The same arguments, all on meta where one is: a network may make constants on the CPU."""
    devices = {tensor.device.type for tensor in tensors_in([*args, *kwargs.values()])}
    if len(devices) > 1 and "meta" in devices:
        return tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))  # type: ignore[no-any-return]
    return args, kwargs


def _copy(network: nn.Module, device: torch.device) -> nn.Module:
    """A copy of a network whose tensors lie on a device; those on meta take no memory."""
    memo: dict[int, Any] = {}
    for module in network.modules():
        for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False), *_attributes(module)]:
            if id(tensor) not in memo:
                data = tensor.detach()
                copied = torch.empty_like(data, device=device) if device.type == "meta" else data.clone()
                is_parameter = isinstance(tensor, nn.Parameter)
                memo[id(tensor)] = nn.Parameter(copied, requires_grad=False) if is_parameter else copied
    return copy.deepcopy(network, memo)


def _attributes(module: nn.Module) -> Iterator[Tensor]:
    """Tensors that a module keeps beside its parameters and buffers, as `weight_norm` does."""
    yield from tensors_in(list(vars(module).values()))


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Nothing compiled, and no kernel for a whole layer."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _enter(modules: list[str], name: str, *_: Any) -> None:
    modules.append(name)


def _leave(modules: list[str], *_: Any) -> None:
    modules.pop()
