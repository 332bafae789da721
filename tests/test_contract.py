"""What every network of the package promises, over all variants."""

from __future__ import annotations

import copy
import io
import math
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import randomise, relative_error
from timm.utils import ModelEmaV3
from torch import nn

import effvit

ALL = effvit.list_variants()
TINY = "efficientvit_tiny"


def network(name: str = TINY, **arguments: object) -> effvit.EfficientViT:
    return randomise(effvit.create_model(name, **arguments))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (75, 131), (224, 160)])
def test_any_size(name: str, height: int, width: int) -> None:
    """Defect 2: the official code refuses any size but 224 x 224."""
    model = network(name, num_classes=7).eval()
    x = torch.randn(1, 3, height, width)
    with torch.no_grad():
        maps = model.features(x)
        logits = model(x)
        assert torch.equal(logits, model.forward_head(model.forward_features(x)))
    assert [tuple(m.shape) for m in maps] == [
        (1, channels, math.ceil(height / stride), math.ceil(width / stride))
        for channels, stride in model.output_shapes()
    ]
    assert logits.shape == (1, 7)
    assert logits.isfinite().all()


def test_one_instance_at_several_sizes() -> None:
    model = network().eval()
    x = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        first = model(x)
        for size in ((224, 224), (33, 500), (450, 32)):
            model(torch.randn(1, 3, *size))
        assert torch.equal(model(x), first)


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = network(name, num_classes=5).double().train()
    F.cross_entropy(model(torch.randn(3, 3, 160, 128).double()), torch.tensor([0, 1, 4])).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, parameter_name


def test_modes_return_the_network_itself() -> None:
    model = network()
    assert model.train() is model and model.eval() is model and not model.training


@pytest.mark.parametrize("size", [(64, 64), (90, 200)])
def test_two_pictures_are_two_times_one(size: tuple[int, int]) -> None:
    model = network().double().eval()
    x = torch.randn(2, 3, *size).double()
    with torch.no_grad():
        apart = torch.cat([model(x[:1]), model(x[1:])])
        assert relative_error(model(x), apart) < 1e-12


def test_outputs_depend_on_the_picture() -> None:
    """Guards the other tests: with most of a network cut off, they would all still pass."""
    model = network().double().eval()
    x = torch.randn(1, 3, 64, 64).double()
    with torch.no_grad():
        assert relative_error(model(x), model(x.flip(3))) > 1e-3


@pytest.mark.parametrize("name", ALL)
def test_head(name: str) -> None:
    model = network(name).double().eval()
    x = torch.randn(1, 3, 64, 64).double()
    with torch.no_grad():
        pooled = model.forward_head(model.forward_features(x), pre_logits=True)
        model.reset_classifier(0)
        assert torch.equal(model(x), pooled)
        model.reset_classifier(3)
        assert model(x).shape == (1, 3)
    assert model.config.num_classes == 3
    assert model.head.linear.weight.dtype == torch.float64 and not model.head.training


def test_distilled_network_gives_both_heads_in_training_and_their_mean_after() -> None:
    model = network(distilled=True, num_classes=4).double()
    x = torch.randn(2, 3, 64, 64).double()
    first, second = model.train()(x)
    assert not torch.allclose(first, second)
    features = model.eval().forward_features(x)
    pooled = features.mean((2, 3))
    mean = (model.head(pooled) + model.head_distilled(pooled)) / 2
    torch.testing.assert_close(model(x), mean, rtol=1e-12, atol=0)


def test_float_formats() -> None:
    model = network().eval()
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        expected = model(x)
        assert relative_error(copy.deepcopy(model).bfloat16()(x.bfloat16()).float(), expected) < 0.1
        with torch.autocast("cpu", torch.bfloat16):
            assert relative_error(model(x).float(), expected) < 0.1
        channels_last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        assert relative_error(channels_last(x.to(memory_format=torch.channels_last)), expected) < 1e-4
        exact = copy.deepcopy(model).double()(x.double())
    assert exact.dtype == torch.float64
    assert relative_error(expected.double(), exact) < 1e-4


def test_autocast_trains() -> None:
    model = network(num_classes=4).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(torch.randn(2, 3, 80, 120)).float().square().mean()
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("size", [pytest.param((64, 64), marks=pytest.mark.slow), (250, 130)])
def test_compiles_without_a_break(size: tuple[int, int]) -> None:
    model = network().double().eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, *size).double()
    with torch.no_grad():
        assert relative_error(compiled(x), model(x)) < 1e-12
    torch.compiler.reset()


def test_compiles_for_training_without_a_break() -> None:
    model = network(num_classes=3).double().train()
    twin = copy.deepcopy(model)
    x = torch.randn(2, 3, 64, 96).double()
    torch.compile(model, fullgraph=True, backend="aot_eager")(x).sum().backward()
    twin(x).sum().backward()
    for ours, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-9, atol=1e-9)
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_compiles_with_inductor(name: str) -> None:
    model = network(name).eval()
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert relative_error(torch.compile(model, fullgraph=True)(x), model(x)) < 1e-4
    torch.compiler.reset()


@pytest.mark.parametrize("size", [pytest.param((64, 64), marks=pytest.mark.slow), (250, 130)])
def test_exports_with_a_dynamic_batch(size: tuple[int, int]) -> None:
    model = network().double().eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (torch.randn(2, 3, *size).double(),), dynamic_shapes=({0: batch},))
    with torch.no_grad():
        for count in (1, 3):
            x = torch.randn(count, 3, *size).double()
            assert relative_error(program.module()(x), model(x)) < 1e-12


def test_copies_and_pickles() -> None:
    model = network(image_size=96, window=3).eval()
    x = torch.randn(1, 3, 96, 96)
    # The test's own object, made a line above.
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            assert torch.equal(twin(x), model(x))
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    fresh = effvit.create_model(TINY, image_size=96, window=3).eval()
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    with torch.no_grad():
        assert torch.equal(fresh(x), model(x))


def test_distributed_training_leaves_no_parameter_unused(tmp_path: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    try:
        model = network(num_classes=3).train()
        twin = copy.deepcopy(model)
        x = torch.randn(2, 3, 64, 64)
        nn.parallel.DistributedDataParallel(model)(x).sum().backward()
        twin(x).sum().backward()
        for ours, expected in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, expected.grad)
    finally:
        torch.distributed.destroy_process_group()


def test_gradient_checkpointing_changes_nothing_but_memory() -> None:
    plain, saving = network(num_classes=3).double().train(), network(num_classes=3).double().train()
    saving.set_grad_checkpointing()
    x = torch.randn(2, 3, 64, 96).double()
    for model in (plain, saving):
        model(x).square().sum().backward()
    for ours, expected in zip(saving.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-10, atol=1e-10)
    for (name, ours), (_, expected) in zip(saving.named_buffers(), plain.named_buffers(), strict=True):
        assert torch.equal(ours, expected), name  # BatchNorm's statistics are recorded once, not twice


def test_drop_path_drops_whole_pictures_and_keeps_the_mean() -> None:
    model = network(drop_path=0.5)
    residual = model.stages[-1][-1].attention
    assert residual.drop_path == 0.5 and model.stages[0][0].attention.drop_path == 0
    residual.body = nn.Identity()
    x = torch.ones(4000, 1, 1, 1)
    branch = residual.train()(x) - x
    assert set(branch.unique().tolist()) == {0.0, 2.0}
    assert branch.mean().item() == pytest.approx(1.0, abs=0.1)
    assert torch.equal(residual.eval()(x), 2 * x)


class TestNoHiddenState:
    """Defect 1 of the official code: a bias cached at `eval()` goes stale. Here nothing is cached."""

    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))

    def after_a_forward_in_eval(self) -> effvit.EfficientViT:
        model = network().eval()
        with torch.no_grad():
            model(self.x)
        return model

    @torch.no_grad()
    def test_loading_weights(self) -> None:
        model, other = self.after_a_forward_in_eval(), randomise(effvit.create_model(TINY), seed=1).eval()
        model.load_state_dict(other.state_dict())
        assert torch.equal(model(self.x), other(self.x))

    @torch.no_grad()
    def test_moving_average(self) -> None:
        model = self.after_a_forward_in_eval()
        average = ModelEmaV3(model, decay=0.5)
        average.module(self.x)
        randomise(model, seed=1)
        average.update(model, step=1)
        fresh = effvit.create_model(TINY).eval()
        fresh.load_state_dict(average.module.state_dict())
        assert torch.equal(average.module(self.x), fresh(self.x))

    @torch.no_grad()
    def test_precision(self) -> None:
        model = self.after_a_forward_in_eval()
        twin = copy.deepcopy(model)
        assert torch.equal(model.bfloat16()(self.x.bfloat16()), twin.train().eval().bfloat16()(self.x.bfloat16()))

    @torch.no_grad()
    def test_device_move(self) -> None:
        """No second device here: what stayed behind would not be on meta, and would mix devices."""
        model = self.after_a_forward_in_eval().to("meta")
        assert model(self.x.to("meta")).shape == (1, 1000)
        assert all(value.is_meta for value in [*model.parameters(), *model.buffers()])

    @torch.no_grad()
    def test_an_edited_table_counts_at_once(self) -> None:
        model = self.after_a_forward_in_eval()
        before = model(self.x)
        model.stages[0][0].attention.body.attention_biases[0, 1] += 3
        assert not torch.equal(model(self.x), before)

    def test_train_and_eval_are_torchs_own(self) -> None:
        for module in network().modules():
            assert type(module).train is nn.Module.train or type(module).__module__.startswith("torch.")
            assert type(module).eval is nn.Module.eval


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 31, 64), (1, 3, 64, 31)])
def test_a_wrong_input_is_one_clear_line(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        effvit.EffvitError, match=r"efficientvit_tiny takes \(batch, 3, height, width\).*from 32 up, got"
    ):
        network()(torch.zeros(shape))


def test_works_inside_timms_optimizer_factory() -> None:
    from timm.optim import create_optimizer_v2

    model = network()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1.0, weight_decay=0.1, layer_decay=0.5)
    scales = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert scales[id(model.head.linear.weight)] == 1.0
    assert scales[id(model.stem[0].conv.weight)] == min(scales.values()) < 0.1
