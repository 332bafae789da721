"""What is said: the largest costs in order, with true numbers, and a remedy for every cause there is."""

from __future__ import annotations

from itertools import pairwise

import pytest
from profiles import PEAKS, model, operator, profile

from effvit.analysis.profiling.causes import CAUSES, COMPUTING
from effvit.analysis.profiling.findings import NUM_FINDINGS, costs_of, findings
from effvit.analysis.profiling.records import ModelProfile, digits, pattern
from effvit.analysis.profiling.remedies import NEARER, REMEDIES, remedy


def test_costs_are_in_order_and_add_up_to_the_wall_time() -> None:
    one = model(operator("copies", 2), operator("linear", 5), operator("copies", 4), between_ms=1)
    costs = costs_of(one)
    assert list(costs) == ["copies", "linear", "between"]
    assert all(first.ms >= second.ms for first, second in pairwise(costs.values()))
    assert sum(total.ms for total in costs.values()) == pytest.approx(one.wall_ms)


def test_each_model_has_its_largest_costs_told() -> None:
    many = model(*(operator(cause, ms) for ms, cause in enumerate(("copies", "linear", "layer_norm", "softmax"), 1)))
    texts = findings(profile(many, model(operator("copies", 1), label="other")))
    assert len(texts) == NUM_FINDINGS + 2  # of the second, the time between operators too
    assert texts[0].startswith("timm:some, most: 40% of the time (4 of 10 ms) goes to softmax")
    assert texts[3].startswith("other, most: 100% of the time (1 of 1 ms) goes to copies into another order")


def test_a_product_is_held_against_the_roofline() -> None:
    # 10 M MACs on 10 MB: one MAC per byte, so memory allows 10 GMAC/s, and 1 ms.
    slow = operator("depthwise", 8.0, num_macs=10_000_000, bytes_moved=10_000_000, module="blocks.3.conv_dw")
    rest = operator("pointwise", 2.0, num_macs=90_000_000, bytes_moved=1_000_000)
    first, second, *_ = findings(profile(model(slow, rest)))
    assert (
        "80% of the time (8 of 10 ms) goes to depth-wise convolutions, 1 call, 100% of it in `blocks.*.conv_dw`"
        in first
    )
    assert "10% of the MACs at 1.25 GMAC/s; this machine's memory allows 10, which would take 10.0% of today" in first
    assert "To come nearer: fewer or larger ones" in first
    assert "at 45 GMAC/s; this machine's arithmetic allows 90, which" not in second
    assert "at 45 GMAC/s; this machine's arithmetic allows 100, which would take 9.0%" in second


def test_what_runs_at_the_limit_is_not_told_to_come_nearer() -> None:
    at_memory = operator("depthwise", 1.0, num_macs=10_000_000, bytes_moved=10_000_000)
    at_arithmetic = operator("linear", 1.0, num_macs=100_000_000, bytes_moved=1_000)
    texts = findings(profile(model(at_memory, at_arithmetic)))
    assert "It runs about as fast as memory allows" in texts[0] and "It runs near the limit" in texts[1]
    assert not any("To come nearer" in text for text in texts)


def test_a_slow_library_is_named_with_its_numbers() -> None:
    slow = operator("linear", 10.0, num_macs=100_000_000, bytes_moved=1_000)
    assert "torch's own reaches 40 GMAC/s on large matrices here, the fastest 100" in findings(profile(model(slow)))[0]


def test_a_larger_batch_is_advice_for_small_products_only() -> None:
    small = operator("pointwise", 10.0, num_macs=1_000_000, bytes_moved=1_000)
    large = operator("pointwise", 10.0, num_macs=100_000_000, bytes_moved=1_000)
    assert "To come nearer: a larger batch, or the same product" in findings(profile(model(small)))[0]
    assert "a larger batch" not in findings(profile(model(small, batch_size=16)))[0]
    assert "To come nearer: the same product" in findings(profile(model(large)))[0]
    assert "To come nearer: `effvit.rewrite`" in findings(profile(model(large, is_ours=True)))[0]


@pytest.mark.parametrize(("value", "text"), [(0.01234, "0.0123"), (99.96, "100"), (999.4, "999"), (3681.2, "3,681")])
def test_numbers_have_no_powers_of_ten(value: float, text: str) -> None:
    assert digits(value) == text


def test_a_batch_norm_folds_by_the_function_that_fits_the_model() -> None:
    norm = operator("batch_norm", 5, name="aten::native_batch_norm", bytes_moved=5_000_000)
    (ours, _), (theirs, _) = (findings(profile(model(norm, is_ours=is_ours))) for is_ours in (True, False))
    assert "`effvit.rewrite` does it" in ours and "effvit.rewrite" not in theirs
    assert "`torch.fx.experimental.optimization.fuse` does it" in theirs
    assert "(native_batch_norm), 1 call" in ours
    assert "It moves 5 MB at 1 GB/s; this machine copies at 10, in its caches at 50." in ours


@pytest.mark.parametrize(
    ("facts", "device", "said"),
    [
        (
            {"is_ours": True},
            "cpu",
            "10 us for each of 100 operators: a larger batch, `effvit.rewrite` (fewer operators)",
        ),
        ({"batch_size": 64}, "cpu", "10 us for each of 100 operators: `torch.compile` or an exported file"),
        (
            {"is_compiled": True},
            "cpu",
            "Guards and calls around compiled kernels, 10 us for each of 100 operators: a larger batch or a file"
            " compiled ahead of time take most of it away.",
        ),
        (
            {"is_compiled": True, "batch_size": 64},
            "cpu",
            "100 operators: a file compiled ahead of time takes most of it away.",
        ),
        (
            {},
            "cuda",
            "The GPU waits for the processor, 10 us for each of 100 operators: a larger batch or a CUDA graph"
            " (`torch.compile(mode='reduce-overhead')`) take most of it away.",
        ),
    ],
)
def test_time_between_operators_is_told_per_operator(facts: dict[str, object], device: str, said: str) -> None:
    one = model(*[operator("linear", 0.001)] * 100, between_ms=1.0, **facts)
    (text, *_) = findings(profile(one, device=device))
    assert "no operator runs" in text and said in text


def test_two_places_are_named_where_none_has_most() -> None:
    places = [operator("copies", 1, module=f"{name}.7") for name in ("a", "b", "c")]
    assert "3 calls, 33% of it in `a.*` and 33% of it in `b.*`" in findings(profile(model(*places)))[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("stages.0.12.ffn.1", "stages.*.*.ffn.*"), ("conv1.bn2", "conv1.bn2"), ("", ""), ("3", "*")],
)
def test_numbers_of_a_module_are_taken_out_of_its_name(name: str, expected: str) -> None:
    assert pattern(name) == expected


def everything(**facts: object) -> ModelProfile:
    operators = [operator(cause, 1, name=f"aten::{cause}") for cause in CAUSES if cause != "between"]
    return model(*operators, between_ms=1, **facts)


@pytest.mark.parametrize("is_ours", [True, False])
@pytest.mark.parametrize("is_compiled", [True, False])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_cause_has_a_remedy_in_whole_sentences(is_ours: bool, is_compiled: bool, device: str) -> None:
    one = everything(is_ours=is_ours, is_compiled=is_compiled)
    for cause, total in costs_of(one).items():
        text = remedy(cause, total, one, profile(one, device=device))
        assert text.endswith(".") and text[0].isupper() and "  " not in text and "{" not in text, cause
    assert set(NEARER) == COMPUTING and not set(REMEDIES) & COMPUTING


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_compiled_network_is_not_told_to_be_compiled(is_ours: bool) -> None:
    products = [operator(cause, 1, num_macs=1_000_000, bytes_moved=1_000) for cause in COMPUTING]
    others = [operator(cause, 1, name=f"aten::{cause}") for cause in CAUSES if cause not in {"between", *COMPUTING}]
    copies = operator("inner_copies", 9, name="aten::copy_ in aten::addmm")
    eager, compiled = (
        model(*products, *others, copies, between_ms=1, is_ours=is_ours, is_compiled=one) for one in (False, True)
    )
    told = {cause: remedy(cause, total, eager, profile(eager)) for cause, total in costs_of(eager).items()}
    again = {cause: remedy(cause, total, compiled, profile(compiled)) for cause, total in costs_of(compiled).items()}
    assert "or a compiled or exported network." in told["convolution"] and "`torch.compile`" in told["additions"]
    assert "or an exported network." in again["convolution"] and "or an exported network." in again["pointwise"]
    assert "a runtime (ONNX Runtime, OpenVINO) fuses" in again["additions"]
    assert "as an exported network has" in again["inner_copies"]
    for text in again.values():
        assert "compiled or" not in text and "a compiler or" not in text and "`torch.compile`" not in text


@pytest.mark.parametrize(
    ("copied", "said"),
    [
        ("addmm", "The bias is written into the result"),
        ("convolution", "permuted or cut"),
        ("odd", "keep one throughout"),
    ],
)
def test_copies_inside_operators_have_their_reason(copied: str, said: str) -> None:
    one = model(operator("inner_copies", 1, name=f"aten::copy_ in aten::{copied}"))
    text = findings(profile(one))[0]
    assert said in text and f"(copy_ in {copied})" in text


@pytest.mark.parametrize(("name", "said"), [("gelu", True), ("relu_", False), ("hardswish_", True)])
def test_relu_is_no_advice_where_it_is(name: str, said: bool) -> None:
    one = model(operator("activations", 1, name=f"aten::{name}"))
    assert ("ReLU, trained anew" in findings(profile(one))[0]) == said


def test_the_limits_of_these_tests_meet_at_ten() -> None:
    assert PEAKS.ridge == 10
