"""Tests of `backbones.freezing`."""

import pytest
import torch
from torch import Tensor, nn

from backbones import BACKBONES, build_backbone, freeze_until

CHEAP = ("r18", "mbf", "rtiny")  # the others differ from r18 in numbers alone
SIZE = 16


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_backbone(name, embedding_size=8, image_size=SIZE)


def stages_of(backbone: nn.Module) -> dict[str, list[nn.Module]]:
    stages: dict[str, list[nn.Module]] = backbone.stages()  # type: ignore[operator]
    return stages


def train_two_steps(backbone: nn.Module) -> None:
    trained = [weight for weight in backbone.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=0.1)
    backbone.train()
    for _ in range(2):
        optimizer.zero_grad()
        backbone(torch.randn(4, 3, SIZE, SIZE)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", CHEAP)
def test_what_is_frozen_stays_to_the_bit_and_the_rest_learns(name: str) -> None:
    backbone = network(name)
    stages = stages_of(backbone)
    freeze_until(backbone, "layer1")
    frozen = {id(t) for part in ("stem", "layer1") for m in stages[part] for t in tensors(m)}
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    train_two_steps(backbone)
    for key, value in backbone.state_dict(keep_vars=True).items():
        is_scale = value.is_floating_point() and key == "features.weight"  # never trained
        assert torch.equal(value, before[key]) == (id(value) in frozen or is_scale), key


def tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


@pytest.mark.parametrize("name", CHEAP)
def test_stages_are_all_before_the_embedding_in_the_order_of_use(name: str) -> None:
    backbone = network(name)
    used: list[str] = []
    for stage, modules in stages_of(backbone).items():
        for leaf in (m for module in modules for m in module.modules() if not [*m.children()]):
            leaf.register_forward_hook(lambda *_, stage=stage: used.append(stage))
    backbone(torch.randn(2, 3, SIZE, SIZE))
    stages = list(stages_of(backbone))
    assert list(dict.fromkeys(used)) == stages
    freeze_until(backbone, stages[-1])
    left = {key.partition(".")[0] for key, w in backbone.named_parameters() if w.requires_grad}
    assert left <= {"bn", "bn2", "fc", "features", "conv_sep"}
    assert left


@pytest.mark.parametrize("recompute", [False, True])
def test_autograd_keeps_nothing_of_a_frozen_stage(recompute: bool) -> None:
    backbone = build_backbone(
        "rtiny", embedding_size=8, image_size=SIZE, activation_checkpointing=recompute
    )
    freeze_until(backbone, "layer2")
    outputs = []
    for module in stages_of(backbone)["layer2"]:
        module.register_forward_hook(lambda _, __, output: outputs.append(output))
    backbone(torch.randn(2, 3, SIZE, SIZE)).sum().backward()
    assert [output.grad_fn for output in outputs] == [None]


@pytest.mark.parametrize("name", BACKBONES)
def test_a_wrong_stage_is_refused_with_those_there_are(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name)
    with pytest.raises(ValueError, match=r"'layer9'.*stem, layer1, layer2, layer3"):
        freeze_until(backbone, "layer9")


def test_a_backbone_that_names_no_stages_is_told_so() -> None:
    with pytest.raises(ValueError, match=r"'stem'.*Linear.*`stages`"):
        freeze_until(nn.Linear(1, 1), "stem")
