"""Several heads over one backbone against their dense definition, on 1, 2 and 4 ranks."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from recognition.head import PartialFC, SeparateHeads, build_loss, heads_by_name
from recognition.head.placement.initial import initial_centres
from tests.distributed_harness import run_ranks
from tests.recognition.head.helpers import active_classes
from tests.recognition.head.reference import ADAFACE, COSFACE, CURRICULARFACE, DenseHead, LossCase

CLASSES = {"a": 5, "b": 41, "c": 17}
WEIGHTS = [1.0, 0.25, 3.0]
SIZE, SEED, RATE, LR, STEPS = 24, 3, 0.3, 0.02, 4
TOLERANCE = 2e-4  # as of the later steps in test_ranks.py
SIZES = {1: [14], 2: [13, 1], 4: [5, 1, 0, 8]}  # unequal, single and absent samples
# Datasets with samples, by step and micro-batch: in step 1 the first has none in one of them, in
# step 2 the second has none at all, and step 3 is of one dataset alone.
PRESENT = ["abc", "abc", "bc", "abc", "ac", "ac", "c", "c"]


@dataclass(frozen=True)
class HeadsCase:
    loss: LossCase = COSFACE
    sampling: str = "all"
    options: dict[str, Any] = field(default_factory=dict)


CASES = [
    HeadsCase(),
    HeadsCase(ADAFACE, "random_negative", {"placement": "host"}),
    HeadsCase(CURRICULARFACE, "random_negative", {"update": "frozen"}),
    HeadsCase(COSFACE, "random_negative", {"placement": "replicated"}),
]


@dataclass(frozen=True)
class HeadsTrace:
    """What one rank computed: per micro-batch, per step, and at the end."""

    losses: list[float]
    figures: list[dict[str, float]]
    gradients: list[Tensor]
    step_figures: list[dict[str, float]]
    state: dict[str, Tensor]
    step_counts: list[int]


def _heads(case: HeadsCase, names: str = "abc") -> dict[str, PartialFC]:
    return {
        name: PartialFC(
            SIZE, CLASSES[name], sampling=case.sampling, sample_rate=RATE, seed=SEED + number,
            loss=build_loss(case.loss.name, **case.loss.options), **case.options,
        )
        for number, name in enumerate(names)
    }  # fmt: skip


def _batches() -> list[tuple[Tensor, Tensor]]:
    """Return two micro-batches per step, with class ids through all datasets."""
    generator = torch.Generator().manual_seed(0)
    starts = dict(zip(CLASSES, [0, 5, 46], strict=True))
    batches = []
    for present in PRESENT:
        x = torch.randn(14, SIZE, generator=generator)
        x *= torch.rand(14, 1, generator=generator) * 25.0 + 0.5
        names = [present[number % len(present)] for number in range(14)]
        y = [starts[n] + int(torch.randint(CLASSES[n], (), generator=generator)) for n in names]
        batches.append((x, torch.tensor(y)))
    return batches


def _local(tensor: Tensor) -> Tensor:
    sizes, rank = SIZES[dist.get_world_size()], dist.get_rank()
    return tensor[sum(sizes[:rank]) : sum(sizes[: rank + 1])]


def _numbers(figures: Any) -> dict[str, float]:
    return {name: float(value) for name, value in figures.items()}


def _train(case: HeadsCase) -> HeadsTrace:
    heads = SeparateHeads(_heads(case), WEIGHTS)
    sizes = SIZES[dist.get_world_size()]
    losses, figures, gradients, step_figures = [], [], [], []
    for number, (x, y) in enumerate(_batches()):
        local_x, local_y = _local(x).clone().requires_grad_(), _local(y)
        if number % 3:  # the right batch, another one, or none
            heads.prefetch(local_y if number % 3 == 1 else local_y.flip(0) * 0, sizes)
        output = heads(local_x, local_y, sizes if number % 2 else None)
        (output.loss * 8.0).backward()
        losses.append(output.loss.item())
        figures.append(_numbers(output.figures))
        assert output.fractions.keys() <= output.figures.keys()
        assert local_x.grad is not None
        gradients.append(local_x.grad / dist.get_world_size() / 8.0)
        if number % 2:
            assert heads.gradients_finite()
            step_figures.append(_numbers(heads.step_figures(8.0)))
            heads.step(LR, grad_scale=8.0)
    state = {
        f"{name}.{part}": tensor
        for name, head in heads_by_name(heads).items()
        for part, tensor in [*head.state_tensors().items(), ("running", head.running)]
    }
    counts = [head.step_count for head in heads.by_dataset.values()]
    return HeadsTrace(losses, figures, gradients, step_figures, state, counts)


def _train_one(*, separate: bool) -> tuple[list[float], list[Tensor]]:
    """Train with one dataset, in one head or in the only one of several."""
    (head,) = _heads(HeadsCase(sampling="random_negative"), "b").values()
    used = SeparateHeads({"b": head}) if separate else head
    losses, tensors = [], []
    for x, y in _batches()[:3]:
        local_x, local_y = _local(x).clone().requires_grad_(), _local(y) % CLASSES["b"]
        used.prefetch(local_y)
        output = used(local_x, local_y)
        output.loss.backward()
        used.step(LR)
        losses.append(output.loss.item())
        assert local_x.grad is not None
        tensors.append(local_x.grad)
    return losses, [*tensors, *head.state_tensors().values()]


def _train_all() -> tuple[list[HeadsTrace], bool]:
    losses, tensors = _train_one(separate=True)
    expected, others = _train_one(separate=False)
    same = losses == expected and all(map(torch.equal, tensors, others))
    return [_train(case) for case in CASES], same


class _DenseHeads:
    """The dense definition of one case."""

    def __init__(self, case: HeadsCase) -> None:
        self.case = case
        self.heads = {
            name: DenseHead(initial_centres(0, classes, SIZE, SEED + number), case.loss)
            for number, (name, classes) in enumerate(CLASSES.items())
        }
        self.gradients: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in CLASSES}

    def batch(self, x: Tensor, y: Tensor, step: int) -> tuple[float, dict[str, float], Tensor]:
        """Return the loss, that of each dataset, and the gradient by x."""
        total, losses, by_x, start = 0.0, {}, torch.zeros_like(x, dtype=torch.float64), 0
        for number, (name, classes) in enumerate(CLASSES.items()):
            own = (y >= start) & (y < start + classes)
            label = y[own] - start
            start += classes
            if not own.any():
                continue
            active = active_classes(self.case.sampling, label, classes, RATE, SEED + number, step)
            loss, own_by_x, by_weight = self.heads[name].loss_and_gradients(x[own], label, active)
            factor = WEIGHTS[number] * int(own.sum()) / len(y)
            total += factor * loss.item()
            losses[name] = loss.item()
            by_x[own] = factor * own_by_x
            self.gradients[name].append((factor * by_weight, active))
        return total, losses, by_x

    def step(self) -> dict[str, float]:
        """Update the centres; return the norm of each dataset's gradient."""
        norms, frozen = {}, self.case.options.get("update") == "frozen"
        for name, parts in self.gradients.items():
            head, active = self.heads[name], torch.zeros(CLASSES[name], dtype=torch.bool)
            gradient = torch.zeros_like(head.weight)
            for by_weight, of_part in parts:
                gradient += by_weight
                active[of_part] = True
            if parts:
                norms[name] = gradient.norm().item()
            head.step(gradient, (active if frozen else torch.ones_like(active)).nonzero()[:, 0], LR)
            parts.clear()
        return norms


def _assert_near(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    error = (found.double() - expected).abs().max()
    assert error <= TOLERANCE * expected.abs().max().clamp_min(1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_equals_the_dense_definition(ranks: int) -> None:
    results = run_ranks(_train_all, ranks)
    assert all(same for _, same in results)  # one dataset is one head, to the bit
    for number, case in enumerate(CASES):
        traces = [of_rank[number] for of_rank, _ in results]
        dense = _DenseHeads(case)
        for micro, (x, y) in enumerate(_batches()):
            loss, losses, by_x = dense.batch(x, y, micro // 2)
            assert {trace.losses[micro] for trace in traces} == {traces[0].losses[micro]}
            figures = traces[0].figures[micro]
            assert traces[0].losses[micro] == pytest.approx(loss, rel=2e-5)
            found = {name[5:]: value for name, value in figures.items() if name[:5] == "loss/"}
            assert found == pytest.approx(losses, rel=2e-5)
            _assert_near(torch.cat([trace.gradients[micro] for trace in traces]), by_x)
            if micro % 2:
                norms, logged = dense.step(), traces[0].step_figures[micro // 2]
                for name, norm in norms.items():
                    assert logged[f"gradient_norm_centres/{name}"] == pytest.approx(norm, rel=1e-3)
                squares = sum(norm**2 for norm in norms.values())
                assert logged["gradient_norm_centres"] == pytest.approx(squares**0.5, rel=1e-3)
        replicated = case.options.get("placement") == "replicated"
        for name, head in dense.heads.items():
            for part, expected in [("weight", head.weight), ("momentum", head.velocity)]:
                parts = [trace.state[f"head.{name}.{part}"] for trace in traces]
                assert not replicated or all(torch.equal(parts[0], other) for other in parts)
                _assert_near(parts[0] if replicated else torch.cat(parts), expected)
            running = traces[-1].state[f"head.{name}.running"].tolist()
            assert running == pytest.approx(head.running, rel=1e-5, abs=1e-6)
        assert all(trace.step_counts == [STEPS] * 3 for trace in traces)


@pytest.mark.slow
def test_heads_draw_and_round_alike_on_any_number_of_ranks() -> None:
    drawn = HeadsCase(sampling="importance", options={"storage": "int8"})
    alone, of_all = (
        run_ranks(_train, 1, case)[0] for case in (drawn, replace(drawn, sampling="all"))
    )

    assert alone.losses[0] == pytest.approx(of_all.losses[0], rel=1e-6)  # over all classes
    assert alone.step_figures[1]["active_classes"] < of_all.step_figures[1]["active_classes"]
    for ranks in (2, 4):
        traces = run_ranks(_train, ranks, drawn)
        assert traces[0].losses == pytest.approx(alone.losses, rel=1e-3)
        for name in CLASSES:
            for part in ("weight", "momentum"):
                key = f"head.{name}.{part}"
                found, expected = (
                    torch.cat([t.state[key] * t.state[f"{key}_scale"] for t in of_ranks])
                    for of_ranks in (traces, [alone])
                )
                # Of random roundings one in thousands turns, by one step of the grid.
                assert (found - expected).norm() <= 5e-3 * expected.norm()


def test_figures_of_the_whole_are_means_over_samples_or_sums() -> None:
    heads = SeparateHeads(_heads(HeadsCase()), WEIGHTS)
    x, y = torch.randn(4, SIZE), torch.tensor([7, 0, 45, 5])
    output = heads(x, y)
    figures, fractions = _numbers(output.figures), output.fractions
    assert fractions["loss/a"] == 0.25
    assert fractions["loss/b"] == 0.75
    assert "loss/c" not in figures  # it has no sample
    mean = 0.25 * figures["cosine_positive/a"] + 0.75 * figures["cosine_positive/b"]
    # The cosines of a few samples may cancel: their mean is near 0.
    assert figures["cosine_positive"] == pytest.approx(mean, abs=1e-6)
    assert figures["positive_classes"] == 4
    assert output.active_classes == 5 + 41
    assert output.loss.item() == pytest.approx(
        0.25 * figures["loss/a"] + 0.75 * 0.25 * figures["loss/b"], rel=1e-6
    )


def test_samples_have_numbers_of_all_heads_and_of_each() -> None:
    heads = SeparateHeads(_heads(HeadsCase()), WEIGHTS)
    for label in ([7, 0, 45, 5], [3, 44]):  # two micro-batches
        x = torch.randn(len(label), SIZE)
        heads(x, torch.tensor(label)).loss.backward()
    figures = heads.sample_figures()
    assert {name: len(value) for name, value in figures.items() if "norm" in name} == {
        "embedding_norm": 6, "embedding_norm/a": 2, "embedding_norm/b": 4,
    }  # fmt: skip
    norms = figures["embedding_norm/b"]
    assert norms[-1] == torch.linalg.vector_norm(x[1])
    negatives = figures["cosine_hardest_negative"]
    assert torch.equal(negatives[2:], figures["cosine_hardest_negative/b"])
    assert (negatives.abs() <= 1).all()


def test_a_step_needs_a_backward_pass_and_a_skipped_one_counts_for_every_head() -> None:
    heads = SeparateHeads(_heads(HeadsCase()))
    for call in (heads.step_figures, heads.sample_figures, lambda: heads.step(LR)):
        with pytest.raises(ValueError, match=r"loss\.backward\(\)"):
            call()
    before = [head.weight.clone() for head in heads.by_dataset.values()]
    heads(torch.randn(2, SIZE), torch.tensor([0, 62])).loss.backward()
    heads.step(LR, skip=True)
    assert [head.step_count for head in heads.by_dataset.values()] == [1, 1, 1]
    assert all(map(torch.equal, before, [head.weight for head in heads.by_dataset.values()]))
    heads.step_count = 7
    assert [head.step_count for head in heads.by_dataset.values()] == [7, 7, 7]


@pytest.mark.parametrize("label", [-1, 63])
def test_labels_of_no_dataset_are_refused(label: int) -> None:
    heads = SeparateHeads(_heads(HeadsCase()))
    with pytest.raises(ValueError, match=rf"labels.*{label}"):
        heads(torch.randn(2, SIZE), torch.tensor([3, label]))


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0, 1.0], [1.0, 1.0, float("nan")]])
def test_weights_that_do_not_fit_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        SeparateHeads(_heads(HeadsCase()), weights)
