import math
from typing import Any

import pytest

from recognition.config import Config, Head, Schedule
from recognition.distributed import World
from recognition.plan import Plan, describe_plan, make_plan, make_sample_rate, make_schedule


def plan(total: int = 100, per_epoch: float = 10.0) -> Plan:
    return Plan(per_epoch, total, verify_every=total, save_every=total)


def config(**sections: Any) -> Config:
    train = {"global_batch_size": 64, "epochs": 2, **sections.pop("train", {})}
    return Config.model_validate(
        {"output": "x", "data": {"train": "x"}, "train": train, **sections}
    )


def test_the_glint360k_schedule_of_the_paper() -> None:
    milestones = [200_000, 400_000, 500_000, 550_000]
    schedule = make_schedule(Schedule(name="step", milestone_steps=milestones), 0.1, plan(600_000))
    rates = [schedule.lr_at(step) for step in (0, 199_999, 200_000, 400_000, 500_000, 599_999)]
    assert rates == pytest.approx([0.1, 0.1, 1e-2, 1e-3, 1e-4, 1e-5])


def test_polynomial_decays_to_zero_at_the_end() -> None:
    schedule = make_schedule(Schedule(power=2.0), 0.1, plan())
    assert schedule.lr_at(0) == 0.1
    assert schedule.lr_at(50) == pytest.approx(0.1 * 0.25)
    assert schedule.lr_at(99) == pytest.approx(0.1 * 1e-4)


def test_warmup_rises_linearly_and_does_not_start_at_the_full_rate() -> None:
    schedule = make_schedule(Schedule(warmup_epochs=2), 0.4, plan())
    assert [schedule.lr_at(step) for step in range(20)] == pytest.approx(
        [0.4 * (step + 1) / 20 for step in range(20)]
    )
    assert schedule.lr_at(20) == pytest.approx(0.4)
    assert schedule.lr_at(60) == pytest.approx(0.2)


def test_steps_outside_the_run_are_refused() -> None:
    schedule = make_schedule(Schedule(), 0.1, plan())
    for step in (-1, 100):
        with pytest.raises(ValueError, match=rf"{step}\b.* 100 "):
            schedule.lr_at(step)


@pytest.mark.parametrize(
    "late",
    [{"warmup_steps": 100}, {"name": "step", "milestone_steps": [50, 100]}, {"warmup_epochs": 10}],
)
def test_a_milestone_or_warm_up_beyond_the_end_is_refused(late: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="step 100 of 100"):
        make_schedule(Schedule(**late), 0.1, plan())


def test_an_epoch_need_not_be_a_whole_number_of_steps() -> None:
    made = make_plan(config(verification={"every_epochs": 1}, checkpoint={"every_steps": 7}), 1000)
    assert made.steps_per_epoch == 1000 / 64
    assert made.total_steps == math.floor(2 * 1000 / 64)
    assert (made.verify_every, made.save_every) == (16, 7)
    assert [step for step in range(1, 32) if made.verify_after(step)] == [16, 31]
    assert [step for step in range(1, 32) if made.save_after(step)] == [7, 14, 21, 28, 31]


@pytest.mark.parametrize(
    ("total", "interval", "expected"),
    [
        (1000, 333, [333, 666, 1000]),
        (1000, 250, [250, 500, 750, 1000]),
        (1033, 1000, [1033]),
        (110, 100, [110]),
        (111, 100, [100, 111]),
        (5, 2, [2, 4, 5]),  # whoever asks for every other step gets it
        (3, 1, [1, 2, 3]),
        (50, 100, [50]),
    ],
)
def test_nothing_is_verified_or_saved_just_before_the_end(
    total: int, interval: int, expected: list[int]
) -> None:
    made = Plan(10.0, total, verify_every=interval, save_every=interval)
    assert [step for step in range(1, total + 1) if made.verify_after(step)] == expected
    assert [step for step in range(1, total + 1) if made.save_after(step)] == expected


def test_a_run_of_less_than_one_step_is_refused() -> None:
    with pytest.raises(ValueError, match=r"31 images.*global_batch_size 64"):
        make_plan(config(), 31)


def rates(**milestones: Any) -> Head:
    return Head(sampling="random_negative", sample_rate=[0.1, 0.3, 1.0], **milestones)


def test_the_sample_rate_changes_at_its_milestones() -> None:
    rate = make_sample_rate(rates(sample_rate_steps=[20, 70]), plan())
    assert rate is not None
    assert [rate(step) for step in (0, 19, 20, 69, 70, 99)] == [0.1, 0.1, 0.3, 0.3, 1.0, 1.0]
    in_epochs = make_sample_rate(rates(sample_rate_epochs=[1.25, 3]), plan(per_epoch=10.0))
    assert in_epochs is not None
    assert in_epochs.milestones == (12, 30)  # as the learning rate's, rounded to whole steps
    constant = make_sample_rate(Head(sampling="random_all", sample_rate=0.2), plan())
    assert constant is not None
    assert {constant(step) for step in range(100)} == {0.2}
    assert make_sample_rate(Head(), plan()) is None


@pytest.mark.parametrize(
    ("milestones", "found"),
    [
        ({"sample_rate_steps": [20, 100]}, "step 100 of 100"),
        ({"sample_rate_epochs": [1, 10]}, "step 100 of 100"),
        ({"sample_rate_epochs": [1.01, 1.02]}, r"\[10, 10\]"),
        ({"sample_rate_epochs": [0.01, 1]}, r"\[0, 10\]"),
    ],
)
def test_a_sample_rate_without_a_step_is_refused(milestones: dict[str, Any], found: str) -> None:
    with pytest.raises(ValueError, match=found):
        make_sample_rate(rates(**milestones), plan())


def test_a_dry_run_shows_the_sample_rates() -> None:
    head = rates(sample_rate_epochs=[0.5, 1]).model_dump()
    lines = describe_plan(config(head=head), 6400, World())
    for value in ("0.1", "0.3", "step 50 ", "step 100 "):
        assert value in lines["sample rate"]
    assert "sample rate" not in describe_plan(config(), 6400, World())
