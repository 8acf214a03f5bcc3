import pytest
import torch

from recognition.head import PartialFC, RowAdamW


@pytest.mark.parametrize("placement", ["sharded", "replicated", "host"])
def test_rows_are_read_and_written_in_parts(placement: str) -> None:
    head = PartialFC(4, 10, placement=placement, optimizer=RowAdamW())
    tensors, rows = head.state_tensors(), head.state_rows()
    assert rows.keys() == tensors.keys() == {"weight", "exp_avg", "exp_avg_sq", "steps"}
    for name, part in rows.items():
        assert (part.shape, part.dtype) == (tensors[name].shape, tensors[name].dtype)
        expected = tensors[name].clone()
        assert torch.equal(part.read(3, 7), expected[3:7])
        part.write(8, torch.full_like(expected[:2], 3))
        expected[8:] = 3
        assert torch.equal(tensors[name], expected)
