"""What would remove a cost: a sentence for each cause, with what this model and machine make of it."""

from __future__ import annotations

from effvit.analysis.profiling.causes import COMPUTING
from effvit.analysis.profiling.records import ModelProfile, Profile, Sum, digits

_NEAR = 0.6
"""Share of the roofline from which on a kernel has little left to gain."""
_LARGE_BATCH = 16
"""Pictures from which on a larger batch is no advice."""
_LARGE_PRODUCT = 20_000_000
"""MACs of a call from which on it fills the machine whatever the batch."""
_UNEQUAL = 1.3
"""How much faster another library's product must be to be worth a word."""
_FUSE = "torch.fx.experimental.optimization.fuse"

REMEDIES: dict[str, str] = {
    "softmax": "Fused attention (`F.scaled_dot_product_attention`) never writes the N x N logits; smaller windows and"
    " fewer heads have fewer of them.",
    "layer_norm": "It cannot be folded; BatchNorm in its place, trained anew, folds into the product beside it and"
    " costs nothing.",
    "norms": "Only a norm with fixed statistics folds away: BatchNorm in its place, trained anew, costs nothing.",
    "additions": "Residuals and biases read two maps to write one: a compiler or runtime (`torch.compile`, ONNX"
    " Runtime, OpenVINO) fuses them into their neighbours.",
    "scaling": "A fixed scale can be multiplied into the weights before it; the rest a compiler or runtime"
    " (`torch.compile`, ONNX Runtime, OpenVINO) fuses into its neighbours.",
    "copies": "A permuted tensor is written anew wherever the next operator wants it in order: keep one order through"
    " the block, cut into fewer windows and heads, or have fewer attention layers.",
    "gathers": "A table of relative positions is looked up anew in every pass: for inference it can be gathered once.",
    "rolls": "Shifted windows copy the whole map twice a block: windows that stay, with a convolution between them (the"
    " paper's token interaction), need none.",
    "joins": "Parts written where they will stand need not be joined: one product for all heads, or fewer branches.",
    "padding": "A picture size that the windows and strides divide needs none.",
    "generated": "They are fused already: fewer or narrower maps are left, or a precision with fewer bytes.",
    "generated_copies": "The compiler reorders what the next kernel wants in another order: one memory format"
    " throughout (`channels_last`) takes most of it away.",
    "generated_softmax": "Fused attention (`F.scaled_dot_product_attention`) never writes the N x N logits.",
}
"""Cause -> what removes it in any model."""

NEARER: dict[str, str] = {
    "depthwise": "fewer or larger ones (torch prepares each call at length), or a runtime that keeps its own order of"
    " memory (ONNX Runtime, OpenVINO)",
    "grouped": "wider groups, which fill the vector units, or a dense convolution of fewer channels",
    "pointwise": "the same product taken over tokens, or a compiled or exported network",
    "convolution": "more input channels in the first layers, or a compiled or exported network",
    "linear": "a compiled or exported network",
    "attention_products": "fused attention, larger windows, or fewer and wider heads",
    "fused_attention": "fewer and wider heads, or more tokens in a window",
    "products": "wider layers",
}
"""Cause that multiplies -> what brings it nearer to the machine's limit."""

_COMPILED_ALREADY = {
    "a compiled or exported network": "an exported network",
    "a compiler or runtime (`torch.compile`, ONNX Runtime, OpenVINO)": "a runtime (ONNX Runtime, OpenVINO)",
    "a compiler or runtime": "a runtime",
}
"""Advice -> what is left of it for a network that is compiled."""


def remedy(cause: str, total: Sum, model: ModelProfile, profile: Profile) -> str:
    """What would remove a cost, in a sentence or two.

    Args:
        cause: Key of `effvit.analysis.profiling.causes.CAUSES`.
        total: What it costs.
        model: Where.
        profile: With the machine's limits.
    """
    text = _remedy(cause, total, model, profile)
    if model.is_compiled:
        for advice, left in _COMPILED_ALREADY.items():
            text = text.replace(advice, left)
    return text


def _remedy(cause: str, total: Sum, model: ModelProfile, profile: Profile) -> str:
    """The same for a network of which nothing is compiled yet."""
    if cause in COMPUTING:
        return _of_products(cause, total, model, profile)
    if cause in ("between", "dispatch"):
        return _of_overhead(cause, total, model, profile)
    if cause == "batch_norm":
        how = "`effvit.rewrite` does it, and every export" if model.is_ours else f"`{_FUSE}` does it, and most exports"
        return f"Its statistics are fixed, so all of it folds into the convolution before it, exactly: {how}."
    if cause == "generated_norms":
        how = "`effvit.rewrite`" if model.is_ours else f"`{_FUSE}`"
        return f"A BatchNorm folds into the convolution before it: {how} before compiling, or inductor's `freezing`."
    if cause == "inner_copies":
        return _of_inner_copies(model)
    if cause == "activations":
        return _of_activations(model)
    if cause == "gathers" and model.is_ours:
        return "The bias table is looked up anew in every pass: `effvit.rewrite(model, image_size=...)` does it once."
    if cause == "other":
        names = ", ".join(f"{name} {share:.1%}" for name, share in list(model.unclassified.items())[:3])
        return f"These are, of the operators' time: {names}."
    return REMEDIES[cause]


def _of_products(cause: str, total: Sum, model: ModelProfile, profile: Profile) -> str:
    if not total.num_macs:
        return "The counter does not know these kernels: how near they are to the limit is open."
    if total.roofline_ms(profile.peaks) >= _NEAR * total.ms:
        if total.intensity < profile.peaks.ridge:
            return "It runs about as fast as memory allows: fewer or narrower maps are left, or fewer bytes a value."
        return "It runs near the limit: fewer MACs are left, a lower precision, or more cores."
    nearer = NEARER[cause]
    if cause == "pointwise" and model.is_ours:
        nearer = "`effvit.rewrite`, which takes the same product over tokens, or a compiled or exported network"
    plain = profile.peaks.products.get("matrix product", 0.0)
    if cause == "linear" and plain * _UNEQUAL < profile.peaks.macs_per_second:
        nearer = (
            f"another library for the product (torch's own reaches {digits(plain / 1e9)} GMAC/s on large matrices here,"
            f" the fastest {digits(profile.peaks.macs_per_second / 1e9)}): a compiled or exported network may choose it"
        )
    small = total.num_macs < _LARGE_PRODUCT * total.num_calls and model.batch_size < _LARGE_BATCH
    if small and cause not in ("depthwise", "grouped"):
        nearer = f"a larger batch, or {nearer}"
    return f"To come nearer: {nearer}."


def _of_overhead(cause: str, total: Sum, model: ModelProfile, profile: Profile) -> str:
    """Time in which nothing is computed, over the calls that it is spent on."""
    count = sum((operator.cause == "dispatch") == (cause == "dispatch") for operator in model.operators)
    calls = "calls" if cause == "dispatch" else "operators"
    each = f"{digits(total.ms / max(1, count) * 1e3)} us for each of {count} {calls}"
    is_large = model.batch_size >= _LARGE_BATCH
    larger, or_takes = ("", "{} takes") if is_large else ("a larger batch, ", "a larger batch or {} take")
    if profile.device != "cpu":
        graph = or_takes.format("a CUDA graph (`torch.compile(mode='reduce-overhead')`)")
        return f"The GPU waits for the processor, {each}: {graph} most of it away."
    if model.is_compiled:
        ahead = or_takes.format("a file compiled ahead of time")
        return f"Guards and calls around compiled kernels, {each}: {ahead} most of it away."
    source = "Views move nothing, but each is a call" if cause == "dispatch" else "Python, dispatch and freeing memory"
    fewer = "`effvit.rewrite` (fewer operators), " if model.is_ours else ""
    return f"{source}, {each}: {larger}{fewer}`torch.compile` or an exported file take most of it away."


_INNER_COPIES = {
    "addmm": "The bias is written into the result before the product is added to it: a kernel that adds it along the"
    " way, as a compiled or exported network has, needs no such pass.",
    "baddbmm": "What is added is written into the result before the product: fused attention adds it along the way.",
    "convolution": "The input is not in the order of memory that the convolution reads, because it was permuted or cut:"
    " keep one order through the block.",
    "native_layer_norm": "The norm gets a permuted tensor and orders it first: keep one order through the block.",
}


def _of_inner_copies(model: ModelProfile) -> str:
    sums = model.by(lambda operator: operator.name if operator.cause == "inner_copies" else "")
    largest = max((name for name in sums if name), key=lambda name: sums[name].ms).rpartition("aten::")[2]
    return _INNER_COPIES.get(largest, "Its operand lies in another order than the operator reads: keep one throughout.")


def _of_activations(model: ModelProfile) -> str:
    sums = model.by(lambda operator: operator.name if operator.cause == "activations" else "")
    largest = max((name for name in sums if name), key=lambda name: sums[name].ms)
    cheaper = "" if "relu" in largest else " ReLU, trained anew, is one comparison;"
    return f"A pass over memory of its own:{cheaper} a compiler or runtime fuses it into the product before it."
