"""Faults that are planted to choose a threshold score as those that are there."""

import numpy as np
import torch

from data.cleaning.examine import Examination, Settings
from data.cleaning.leaks import KnownPeople
from tests.data.cleaning.vectors import People

PEOPLE, IMAGES = 600, 10
SPLIT = 150  # people, the first ones, half of whose images have a label of their own
LEAKED = 200  # people after them who are in a verification set
THRESHOLDS = {"same": 0.45, "leaked": 0.35, "merged": 9.0, "swapped": 9.0}


def test_as_many_planted_faults_as_real_ones_are_found() -> None:
    random = np.random.default_rng(0)
    person = np.repeat(np.arange(PEOPLE), IMAGES)
    of_set = np.repeat(np.arange(SPLIT, SPLIT + LEAKED), 2)  # two images of each
    every = People(np.concatenate([person, of_set]), noise=1.0)
    set_images = every.unit[len(person) :].reshape(LEAKED, 2, -1).sum(axis=1)
    known = KnownPeople(
        "lfw", set_images / np.linalg.norm(set_images, axis=1, keepdims=True), np.arange(LEAKED)
    )
    vectors = People(person)
    vectors.unit = every.unit[: len(person)]
    labels = person.copy()
    halves = np.flatnonzero((person < SPLIT) & (np.arange(len(person)) % IMAGES >= IMAGES // 2))
    labels[halves] += PEOPLE
    wrong = random.choice(len(labels), 300, replace=False)  # 5 of 100 images
    labels[wrong] = (labels[wrong] + random.integers(1, PEOPLE, len(wrong))) % PEOPLE
    found = Examination(
        vectors, labels, PEOPLE + SPLIT, torch.device("cpu"), Settings(thresholds=THRESHOLDS)
    ).run([known])

    pairs = {tuple(sorted(pair)) for pair in found.same.labels.tolist()}
    true = len(pairs & {(p, PEOPLE + p) for p in range(SPLIT)}) / SPLIT
    same, leaked = found.cuts["same"], found.cuts["leaked"]
    assert same is not None
    assert same.recall is not None
    assert 0.8 < true < 1.0  # or the comparison says nothing
    assert abs(same.recall - true) < 0.06
    true = len({*found.leaks[0].labels.tolist()} & {*range(SPLIT, SPLIT + LEAKED)}) / LEAKED
    assert leaked is not None
    assert leaked.recall is not None
    assert abs(leaked.recall - true) < 0.06
