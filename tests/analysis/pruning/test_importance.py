"""Taylor scores: by hand, against the true change of the loss, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from pruning_networks import KINDS, network_of
from scipy.stats import spearmanr
from torch import Tensor, nn

from effvit.analysis.pruning.importance import Groups, Part, taylor_scores
from effvit.analysis.pruning.prunable import find_prunable, importance
from effvit.errors import ConfigError, DataError
from effvit.model.network import EfficientViT
from effvit.model.variants import family_config

PAIR = Groups(
    name="inputs", shape=(1, 2), parts=(Part(parameter="weight", dim=1, channels=[0, 1, 2], groups=[0, 0, 1]),)
)


def mean_output(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.squeeze(1) * targets).mean()


def test_by_hand() -> None:
    """Signs are kept within a group and a batch, absolute values are averaged over batches."""
    linear = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    linear.weight.data = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)
    ones = torch.ones(2, dtype=torch.float64)
    batches = [
        (torch.tensor([[1.0, 1.0, 1.0], [3.0, 1.0, 1.0]], dtype=torch.float64), ones),  # means 2, 1, 1
        (torch.tensor([[0.0, 4.0, -1.0], [0.0, 4.0, -1.0]], dtype=torch.float64), ones),  # means 0, 4, -1
    ]
    found = taylor_scores(linear, [PAIR], mean_output, batches)
    # Group 0: |2 x 1 + 1 x -2| = 0 and |0 + 4 x -2| = 8; group 1: |1 x 3| and |-1 x 3|.
    assert found.scores["inputs"].tolist() == [[4.0, 3.0]]
    assert (found.num_batches, found.num_pictures) == (2, 4)
    assert found.loss == pytest.approx((3.0 + -11.0) / 2)


def trained_network() -> tuple[EfficientViT, Tensor, Tensor]:
    """A small network after some steps on pictures of three kinds; the same in each call."""
    config = family_config("tiny", widths=(16, 24), depths=(1, 1), num_heads=(2, 2), query_kernels=(3, 3), key_dim=6)
    torch.manual_seed(0)
    targets = torch.arange(24) % 3
    images = torch.randn(24, 3, 32, 32) + torch.eye(3)[targets][:, :, None, None]
    network = EfficientViT(replace(config, num_classes=3, image_size=(32, 32)))
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(network(images), targets).backward()
        optimizer.step()
    return network.double().eval(), images.double(), targets


def true_changes(network: EfficientViT, images: Tensor, targets: Tensor, kind: str) -> tuple[list[float], list[float]]:
    """Scores of channels of a kind, of each group some fifteen, and how much the loss changes without each."""
    found = find_prunable(network, (3, 32, 32), kinds=(kind,), multiple=1, min_share=0)
    scores = taylor_scores(network, found.groups, F.cross_entropy, [(images, targets)])
    with torch.no_grad():
        whole = F.cross_entropy(network(images), targets)
        state = network.state_dict()
        predicted, true = [], []
        for group in found.groups:
            count = group.shape[0] * group.shape[1]
            for index in range(0, count, max(1, count // 15)):
                touched = {part.parameter for part in group.parts}
                kept = {name: state[name].clone() for name in touched}
                for part in group.parts:
                    chosen = [c for c, owner in zip(part.channels, part.groups, strict=True) if owner == index]
                    state[part.parameter].index_fill_(part.dim, torch.tensor(chosen, dtype=torch.long), 0)
                true.append(float((F.cross_entropy(network(images), targets) - whole).abs()))
                predicted.append(float(scores.scores[group.name].flatten()[index]))
                for name, value in kept.items():
                    state[name].copy_(value)
    return predicted, true


def test_scores_rank_channels_as_the_true_change_of_the_loss() -> None:
    network, images, targets = trained_network()
    correlations = {}
    for kind in ("ffn", "value", "qk", "width"):
        predicted, true = true_changes(network, images, targets, kind)
        correlations[kind] = float(spearmanr(predicted, true).statistic)
    assert min(correlations.values()) > 0.85, correlations
    assert sum(correlations.values()) / len(correlations) > 0.93, correlations


def test_the_score_is_the_derivative_of_the_loss_along_the_removal() -> None:
    """For a tiny step towards the masked network the loss changes by the score: nothing is counted twice."""
    config = family_config("tiny", widths=(12, 24), depths=(1, 1), num_heads=(2, 2), query_kernels=(3, 3), key_dim=4)
    network = network_of(replace(config, num_classes=3, image_size=(32, 32)))
    images, targets = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    found = find_prunable(network, (3, 32, 32), kinds=KINDS, multiple=1, min_share=0)
    scores = taylor_scores(network, found.groups, F.cross_entropy, [(images, targets)])
    whole, step = F.cross_entropy(network(images), targets), 1e-6
    for group in found.groups:
        index = group.shape[0] * group.shape[1] - 1
        moved = network_of(network.config)
        with torch.no_grad():
            for part in group.parts:
                chosen = [c for c, owner in zip(part.channels, part.groups, strict=True) if owner == index]
                parameter = moved.get_parameter(part.parameter)
                rest = parameter.index_select(part.dim, torch.tensor(chosen, dtype=torch.long)) * (1 - step)
                parameter.index_copy_(part.dim, torch.tensor(chosen, dtype=torch.long), rest)
            change = float(F.cross_entropy(moved(images), targets) - whole)
        assert abs(change) / step == pytest.approx(float(scores.scores[group.name].flatten()[-1]), rel=1e-3, abs=1e-7)


def test_the_network_is_left_as_it_was() -> None:
    network = network_of(replace(family_tiny(), num_classes=3)).train().requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images, targets = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 1])
    found = importance(network, F.cross_entropy, [(images, targets)])
    assert found.scores["stage0.width"].shape == (2, 6)
    assert network.training and not any(p.requires_grad or p.grad is not None for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def family_tiny():  # type: ignore[no-untyped-def]
    config = family_config("tiny", widths=(12,), depths=(1,), num_heads=(2,), query_kernels=(3, 3), key_dim=4)
    return replace(config, image_size=(32, 32))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda n: taylor_scores(n, [PAIR], mean_output, []),
            DataError,
            "no pictures to score with: there is no batch",
        ),
        (lambda n: taylor_scores(n, [], mean_output, []), ConfigError, "nothing to score: the network has no part"),
        (
            lambda n: taylor_scores(n, [PAIR], lambda o, t: o, [(torch.ones(2, 3), torch.ones(2))]),
            ConfigError,
            r"the loss must be one finite number, got tensor\(\[",
        ),
        (
            lambda n: taylor_scores(n, [PAIR], lambda o, t: o.sum() / 0, [(torch.ones(2, 3), torch.ones(2))]),
            ConfigError,
            "the loss must be one finite number, got (inf|-inf|nan)",
        ),
        (lambda n: importance(n, mean_output, []), ConfigError, "the size of a picture is needed"),
    ],
)
def test_what_is_refused(call: Callable[[nn.Module], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(nn.Linear(3, 1, bias=False))
