import torch

from recognition.head.kernels.huge_pages import prefer_huge_pages


def test_the_tensor_comes_back_and_holds_what_is_written() -> None:
    for size in (0, 1, 1000, 3 << 20):
        table = torch.empty(size)
        assert prefer_huge_pages(table) is table
        table.copy_(torch.arange(size))
        assert torch.equal(table, torch.arange(size).float())


def test_zeros_stay_zeros() -> None:
    assert not prefer_huge_pages(torch.zeros(3 << 20)).any()


def test_what_is_not_in_cpu_memory_is_left_alone() -> None:
    table = torch.empty(10, device="meta")
    assert prefer_huge_pages(table) is table
