import torch

from recognition.head.kernels.workspace import Workspace, prefer_huge_pages

CPU = torch.device("cpu")


def test_a_name_has_one_memory_that_grows() -> None:
    space = Workspace()
    first = space.take("a", (4, 5), torch.float32, CPU)
    other = space.take("b", (4, 5), torch.float32, CPU)
    smaller = space.like("a", torch.empty(3, 2), torch.float32)
    larger = space.take("a", (40, 5), torch.float32, CPU)

    assert smaller.shape == (3, 2)
    assert smaller.data_ptr() == first.data_ptr() != other.data_ptr()
    assert larger.shape == (40, 5)
    assert space.take("a", (4, 5), torch.bfloat16, CPU).dtype == torch.bfloat16


def test_acquired_memory_is_reused_once_released() -> None:
    space = Workspace()
    first = space.acquire((4, 5), torch.float32, CPU)
    second = space.acquire((4, 5), torch.float32, CPU)
    assert first.data_ptr() != second.data_ptr()

    memory = first.data_ptr()
    space.release(first)
    assert space.acquire((2, 5), torch.float32, CPU).data_ptr() == memory


def test_huge_pages_change_neither_tensor_nor_contents() -> None:
    for size in (0, 1, 1000, 3 << 20):
        table = torch.empty(size)
        assert prefer_huge_pages(table) is table
        table.copy_(torch.arange(size))
        assert torch.equal(table, torch.arange(size).float())


def test_huge_pages_leave_zeros_zero() -> None:
    assert not prefer_huge_pages(torch.zeros(3 << 20)).any()


def test_huge_pages_ignore_other_devices() -> None:
    table = torch.empty(10, device="meta")
    assert prefer_huge_pages(table) is table
