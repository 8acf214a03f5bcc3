from pathlib import Path

import pytest
import torch

from recognition.build import load_initial_weights


@pytest.mark.parametrize("name", ["typo.pt", "runs/typo", "x" * 300])
def test_initial_weights_that_do_not_exist_are_called_that(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"init_from.*{name} does not exist"):
        load_initial_weights(torch.nn.Linear(1, 1), tmp_path / name)


def test_initial_weights_may_be_those_of_a_wrapped_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved, loaded = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    weights = {f"module.{name}": value for name, value in saved.state_dict().items()}
    torch.save({"model": weights}, tmp_path / "w.pt")
    load_initial_weights(loaded, tmp_path / "w.pt")
    assert torch.equal(loaded.weight, saved.weight)
