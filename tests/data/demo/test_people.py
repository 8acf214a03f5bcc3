"""Synthetic people: functions of their address, and geometry that can be computed by hand."""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import pytest
import torch

from data.demo.camera import background
from data.demo.canvas import Canvas
from data.demo.conditions import Period, Pose, Shot, View, make_conditions
from data.demo.deck import Deck, ScalarDeck, chance, deal, generator, normal, uniform
from data.demo.geometry import BOTTOM, TOP, Grid, normal_map, radius_map
from data.demo.identity import make_identity
from data.demo.project import pixel_coordinates, rotation_matrix, trace
from data.demo.render import render, render_identity
from data.demo.texture import paint

FAR_IDENTITY = 2**31 + 7  # as the verification sets use


def view(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> View:
    values = (yaw, pitch, roll, 50.0, 0.0, 0.0, 0.0)
    return View(*(np.array([value], np.float32) for value in values))


def test_identity_and_images_are_functions_of_their_address() -> None:
    assert make_identity(3, 5) == make_identity(3, 5)
    assert make_identity(3, 5) != make_identity(3, 6)
    assert make_identity(3, 5) != make_identity(4, 5)
    shots = [Shot(0), Shot(1)]
    first, again = render_identity(3, 5, shots), render_identity(3, 5, shots)
    assert first.shape == (2, 112, 112, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)


@pytest.mark.slow
@pytest.mark.parametrize("identity", [0, FAR_IDENTITY])
def test_an_image_does_not_depend_on_the_others(identity: int) -> None:
    shots = [Shot(i) for i in range(7)]
    together = render_identity(1, identity, shots)
    alone = np.concatenate([render_identity(1, identity, [shot]) for shot in shots])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together[::-1], render_identity(1, identity, shots[::-1]))


def test_every_address_has_its_own_random_numbers() -> None:
    addresses = [
        (seed, identity, image)
        for seed in (0, 1, 2**64 - 1)
        for identity in (0, 1, FAR_IDENTITY, FAR_IDENTITY + 1)
        for image in (None, 0, 1, 2**32 - 3)
    ]
    draws = {generator(*address).random() for address in addresses}
    assert len(draws) == len(addresses)


@pytest.mark.parametrize(
    ("seed", "identity", "image", "name"),
    [(-1, 0, 0, "seed"), (2**64, 0, 0, "seed"), (0, 2**32, 0, "identity"), (0, 0, -2, "image"),
     (0, 0, 2**32 - 1, "image")],
)  # fmt: skip
def test_addresses_out_of_range_are_refused(
    seed: int, identity: int, image: int, name: str
) -> None:
    with pytest.raises(ValueError, match=f"^{name} is"):
        generator(seed, identity, image)


def test_deck_deals_what_it_says() -> None:
    deck = Deck(np.random.default_rng(0).random((4000, 8), dtype=np.float32))
    uniform, normal = deck.uniform(2, 4), deck.normal(5, 0.5)
    chance, colours = deck.chance(0.3), deck.colours(0.2, 0.6)
    assert 2 <= uniform.min() < 2.1
    assert 3.9 < uniform.max() < 4
    # 4,000 draws: six standard errors of the mean are 0.05, of the deviation 0.04
    assert abs(normal.mean() - 5) < 0.05
    assert abs(normal.std() - 0.5) < 0.04
    assert np.abs(normal - 5).max() <= 1.5
    assert abs(chance.mean() - 0.3) < 0.05
    assert colours.shape == (4000, 3)
    assert 0.2 <= colours.min() < colours.max() < 0.6


@dataclass(frozen=True)
class Parts:
    first: Annotated[float, uniform(0, 1)]
    passed: str
    second: Annotated[float, normal(5, 1, 5.5)]
    third: Annotated[bool, chance(0.5)]


def test_fields_are_dealt_in_their_order_unless_they_are_passed() -> None:
    deck = ScalarDeck(np.random.default_rng(0), 5)
    parts = deal(deck, Parts, passed="as it is")
    same = ScalarDeck(np.random.default_rng(0), 5)
    expected = Parts(same.uniform(0, 1), "as it is", same.normal(5, 1, 5.5), same.chance(0.5))
    assert parts == expected
    assert parts.second >= 5.5
    with pytest.raises(AssertionError):
        deck.chance(0.5)  # the deck is used up


def test_shots_are_taken_as_asked() -> None:
    def ask(pose: Pose, period: Period) -> tuple[np.ndarray, np.ndarray]:
        conditions = make_conditions(0, 1, [Shot(i, pose, period) for i in range(200)])
        return np.degrees(np.abs(conditions.view.yaw)), conditions.age

    frontal, young = ask("frontal", "young")
    profile, old = ask("profile", "old")
    mixed, ages = ask("any", "any")
    assert frontal.max() <= 12.01
    assert 64.99 <= profile.min() < profile.max() <= 90.01
    assert young.max() <= 0.2
    assert old.min() >= 0.8
    assert mixed.min() < 5
    assert mixed.max() > 80
    assert ages.min() < 0.1
    assert ages.max() > 0.9


def test_rotations_are_orthogonal_and_turn_the_right_way() -> None:
    turned = rotation_matrix(view(0.3, -0.2, 0.1))[0]
    torch.testing.assert_close(turned @ turned.T, torch.eye(3))
    assert torch.det(turned) == pytest.approx(1.0)
    nose = torch.tensor((0.0, 0.0, 1.0))
    torch.testing.assert_close(
        rotation_matrix(view(yaw=np.pi / 2))[0] @ nose, torch.tensor((1.0, 0, 0))
    )


@pytest.mark.parametrize("yaw", [0.0, 0.7, np.pi / 2])
def test_rays_meet_a_cylinder_where_they_must(yaw: float) -> None:
    radius, turned = 0.8, view(yaw)
    rotation = rotation_matrix(turned)
    hits = trace(torch.full((1, 1, 20, 30), radius), turned, rotation, 56, 2.0)
    x, y = (axis[0].expand(56, 56) for axis in pixel_coordinates(turned, rotation, 56, 2.0))
    u, v = hits.texture[0]
    inside = x.abs() < 0.9 * radius
    azimuth = torch.asin((x / radius).clamp(-1, 1)) - yaw
    # rays advance by 0.12, and a chord of that length misses the arc by 0.12² / 8 / radius
    torch.testing.assert_close(u[inside], torch.sin(azimuth / 2)[inside], atol=0.006, rtol=0)
    torch.testing.assert_close(v, (2 * y - TOP - BOTTOM) / (BOTTOM - TOP))
    assert (hits.clearance[0][inside] < -0.02).all()
    outside = x.abs() > 1.02 * radius
    expected = (x.abs() - radius)[outside]
    torch.testing.assert_close(hits.clearance[0][outside], expected, atol=0.006, rtol=0)


def test_heads_are_closed_and_their_normals_point_outwards() -> None:
    grid = Grid.of(84, 108)
    for number in range(20):
        radius = radius_map(make_identity(0, number), grid)
        assert radius.dtype == np.float32
        assert radius[0].max() < 0
        assert radius[8:].min() > 0.1
        assert radius.max() < 1.6
        normal = normal_map(radius, grid)
        np.testing.assert_allclose(np.square(normal).sum(0), 1, rtol=1e-5)
        outward = np.sin(grid.azimuth) * normal[0] + np.cos(grid.azimuth) * normal[2]
        assert outward[8:].min() > 0


@pytest.mark.slow
def test_reflectance_stays_physical_at_every_age() -> None:
    for number in range(20):
        surface = paint(make_identity(0, number)).surface
        for age in (0.0, 1.0):
            albedo = surface[:, :3] + age * surface[:, 3:6]
            assert albedo.min() > -0.02
            assert albedo.max() < 1.1


def test_painting_a_part_paints_the_whole_there() -> None:
    whole, parted = Canvas.filled((0.2, 0.4, 0.6)), Canvas.filled((0.2, 0.4, 0.6))
    part = parted.part(-0.3, 0.4, -0.5, 0.2)
    assert part.grid.y[0, 0] <= -0.27
    assert part.grid.y[-1, 0] >= 0.37
    for canvas in (whole, part):
        inside = (canvas.grid.y > -0.2) & (canvas.grid.y < 0.3)
        inside = inside & (canvas.grid.x > -0.4) & (canvas.grid.x < 0.1)
        canvas.blend(inside.astype(np.float32), (1.0, 0.5, 0.0))
        canvas.tint(inside.astype(np.float32), (0.5, 0.5, 2.0))
    assert whole.colour.max() == 0.6
    np.testing.assert_array_equal(whole.colour, parted.colour)
    assert (whole.colour[0] == 0.5).any()


def test_background_is_bilinear() -> None:
    conditions = make_conditions(0, 0, [Shot(0), Shot(1)])
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(conditions.backdrop),
        size=(112, 112),
        mode="bilinear",
        align_corners=True,
    )
    torch.testing.assert_close(background(conditions, 112), expected)


@pytest.mark.slow
def test_conditions_show_in_the_image() -> None:
    maps = paint(make_identity(0, 2))
    plain = make_conditions(0, 2, [Shot(0, "frontal", "young")])
    off = np.zeros(1, bool)
    plain = replace(
        plain,
        cover=replace(plain.cover, glasses=off, mask=off, hat=off, hand=off),
        camera=replace(plain.camera, fuzzy=off, grey=off),
        expression=replace(plain.expression, speaks=off),
    )
    image = render(maps, plain).astype(np.int64)
    changes = {
        name: replace(plain, cover=replace(plain.cover, **{name: ~off}))
        for name in ("glasses", "mask", "hat", "hand")
    }
    changes["age"] = replace(plain, age=np.ones(1, np.float32))
    blur = np.full(1, 1.5, np.float32)
    changes["blur"] = replace(plain, camera=replace(plain.camera, fuzzy=~off, blur=blur))
    changes["grey"] = replace(plain, camera=replace(plain.camera, grey=~off))
    opening = np.full(1, 0.1, np.float32)
    jaw = plain.expression.jaw - 5 * opening  # the face moves as before, only the mouth is open
    speaking = replace(plain.expression, speaks=~off, opening=opening, jaw=jaw)
    changes["speaks"] = replace(plain, expression=speaking)
    for name, conditions in changes.items():
        changed = render(maps, conditions).astype(np.int64)
        fraction = (np.abs(changed - image).max(axis=-1) > 8).mean()
        assert fraction > 0.003, name
    assert (np.ptp(render(maps, changes["grey"]).astype(int), axis=-1).mean()) < 12
