"""The forms a model can take in torch: which layout, which number format, eager, compiled or as a CUDA graph.

Nobody knows beforehand which is fastest on a device and at a batch size, so each is a `Form` that the benchmark
tries; the record says what was tried and what was kept.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

from effvit.deploy.network import Layout
from effvit.deploy.rewrite import rewrite
from effvit.errors import ConfigError
from effvit.model.network import EfficientViT

Call = Callable[[], object]
"""What is timed: one forward pass on a batch that is already where and as it must be."""

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Precisions that torch computes in without a calibration."""

TRACE = "trace"
"""The runtime of the paper's protocol."""
_RECOMPILE_LIMIT = 1024
"""Compiled networks share their code objects: beyond torch's usual 8 of them it would silently run the rest eager."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A form that is ready to be timed."""

    call: Call
    """What is timed."""
    file: Path | None = None
    """The exported file that it runs; None in torch."""
    images: Tensor | None = None
    """What the file is given; None in torch."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """One way to run a model."""

    name: str
    """What it can be asked for by, a key of `effvit.deploy.speed.sources.FORM_NAMES`."""
    text: str
    """What was done, for tables."""
    prepare: Callable[[Tensor], Prepared]
    """From a batch, float32 on the CPU, (B, C, H, W), to what is timed. Takes seconds to minutes."""


@dataclass(frozen=True)
class _Layout:
    """A module and the memory order of the pictures it is given."""

    name: str
    text: str
    build: Callable[[tuple[int, int]], nn.Module]
    """Makes the module for pictures of this height and width, in pixels."""
    memory_format: torch.memory_format = torch.contiguous_format


def torch_forms(model: nn.Module, *, runtime: str, precision: str, device: torch.device) -> list[Form]:
    """All forms of a model in a runtime of torch, none of them built yet.

    Ours is rewritten in either layout of the deploy form. Everybody else's is reparameterised by timm where it is
    timm's, once with contiguous pictures and once with channels last. In half precision on top of that: everything
    cast, and weights in float32 under autocast. `plain` is the model as its authors made it.

    Args:
        model: The network; not changed.
        runtime: One of `TORCH_RUNTIMES`.
        precision: Key of `DTYPES`.
        device: Where it runs.

    Raises:
        ConfigError: If the runtime does not offer the precision, or does not run on the device.
    """
    if precision not in DTYPES:
        raise ConfigError(f"{runtime} computes in {', '.join(DTYPES)}, not in {precision}")
    if runtime == "cuda-graph" and device.type != "cuda":
        raise ConfigError(f"cuda-graph needs a CUDA device, got {device}")
    dtype = DTYPES[precision]
    return [
        Form(
            name=layout.name,
            text=layout.text + (", autocast" if autocast else ""),
            prepare=partial(_prepare, layout, _RUN[runtime], device, dtype, autocast),
        )
        for layout in _layouts(model)
        for autocast in _castings(runtime, dtype)
    ]


def _castings(runtime: str, dtype: torch.dtype) -> tuple[bool, ...]:
    """Without and with autocast; the paper's tracing knows only the second."""
    if dtype == torch.float32:
        return (False,)
    return (True,) if runtime == TRACE else (False, True)


def reparameterized(model: nn.Module) -> nn.Module:
    """The form somebody else's model is deployed in: what timm makes of its own, others as they are; a copy."""
    model = copy.deepcopy(model).eval()  # some of timm's refuse to be fused in training mode
    return reparameterize_model(model, inplace=True).eval() if _is_timms(model) else model


def deploy_text(model: nn.Module) -> str:
    """What is done to a model before it is deployed."""
    if isinstance(model, EfficientViT):
        return "rewritten"
    return "reparameterized by timm" if _is_timms(model) else "as it is"


def _is_timms(model: nn.Module) -> bool:
    return hasattr(model, "pretrained_cfg")


def _layouts(model: nn.Module) -> Iterator[_Layout]:
    yield _Layout("plain", "as its authors made it", lambda _: copy.deepcopy(model).eval())
    if isinstance(model, EfficientViT):
        for layout in get_args(Layout):
            text = f"{deploy_text(model)} for its size, {layout}"
            yield _Layout(layout, text, partial(_rewritten, model, layout))
        return
    yield _Layout("contiguous", deploy_text(model), lambda _: reparameterized(model))
    text = f"{deploy_text(model)}, channels last"
    yield _Layout("channels_last", text, lambda _: reparameterized(model), torch.channels_last)


def _rewritten(model: nn.Module, layout: Layout, size: tuple[int, int]) -> nn.Module:
    return rewrite(model, layout=layout, image_size=size)


def _prepare(
    layout: _Layout,
    run: Callable[[Callable[[Tensor], Tensor], Tensor], Call],
    device: torch.device,
    dtype: torch.dtype,
    autocast: bool,
    images: Tensor,
) -> Prepared:
    """Build a form, move it and a batch to the device, and hand both to a runtime."""
    dtype_of_weights = torch.float32 if autocast else dtype
    module = layout.build((images.shape[2], images.shape[3])).requires_grad_(False).to(device, dtype_of_weights)
    if layout.memory_format != torch.contiguous_format:  # otherwise as it was built: ours lays out its own
        module = module.to(memory_format=layout.memory_format)
    batch = images.to(device, dtype_of_weights).contiguous(memory_format=layout.memory_format)
    casting: Callable[[], AbstractContextManager[object]] = nullcontext
    if autocast:
        casting = partial(torch.autocast, device.type, dtype=dtype)

    def forward(pictures: Tensor) -> Tensor:
        with casting():
            answer: Tensor = module(pictures)
            return answer

    with torch.inference_mode():
        return Prepared(call=run(forward if autocast else module, batch))


def _eager(forward: Callable[[Tensor], Tensor], batch: Tensor) -> Call:
    return lambda: forward(batch)


def _compiled(forward: Callable[[Tensor], Tensor], batch: Tensor) -> Call:
    """Compile for exactly this batch, weights frozen into the program, and run it once."""
    from torch._dynamo import config as dynamo
    from torch._inductor import config as inductor

    # Their weights are constants of the program: layouts are chosen and norms folded once, not at every call.
    # On a CPU, where a call takes milliseconds, the program that calls the kernels is C++ too.
    compiled = torch.compile(forward, dynamic=False)
    cpp_wrapper = batch.device.type == "cpu"
    with inductor.patch(freezing=True, cpp_wrapper=cpp_wrapper), dynamo.patch(recompile_limit=_RECOMPILE_LIMIT):
        compiled(batch)
    return lambda: compiled(batch)


@dataclass(frozen=True, kw_only=True)
class _Replay:
    """A recorded graph with all that its kernels read and write: they know addresses only, and hold nothing."""

    graph: torch.cuda.CUDAGraph
    forward: Callable[[Tensor], Tensor]
    """Holds the weights."""
    batch: Tensor
    answer: Tensor

    def __call__(self) -> Tensor:
        self.graph.replay()
        return self.answer


def _cuda_graph(forward: Callable[[Tensor], Tensor], batch: Tensor) -> Call:
    """Record the kernels of one pass, and replay them with a single launch."""
    stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # libraries choose their algorithms in the first passes, which cannot be recorded
        for _ in range(3):
            forward(batch)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = forward(batch)
    return _Replay(graph=graph, forward=forward, batch=batch, answer=answer)


def _traced(forward: Callable[[Tensor], Tensor], batch: Tensor) -> Call:
    """As the official speed script: `torch.jit.trace`, nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of its own end
        # The batch is the one that is timed, so what the tracer takes for constant is constant.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        traced = torch.jit.trace(forward, batch, check_trace=False)  # type: ignore[no-untyped-call]
    return lambda: traced(batch)


_RUN: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Call]] = {
    "torch": _eager,
    "compile": _compiled,
    "cuda-graph": _cuda_graph,
    TRACE: _traced,
}
"""Name of a runtime -> from a module and a batch to the call that is timed."""

TORCH_RUNTIMES = tuple(_RUN)
"""Runtimes that take the module itself."""
