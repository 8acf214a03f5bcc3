import numpy as np

from data.detection.boxes import keep_best


def test_the_best_of_overlapping_boxes_stays() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [2, 2, 6, 6]], np.float32)
    scores = np.array([0.5, 0.9, 0.7, 0.95], np.float32)
    # Boxes 0 and 1 share 90 of 110, box 3 is wholly in both but has 16 of their 100.
    assert keep_best(boxes, scores, 0.8).tolist() == [3, 1, 2]
    assert keep_best(boxes, scores, 0.85).tolist() == [3, 1, 2, 0]
    assert keep_best(boxes, scores, 0.8, "smaller").tolist() == [3, 2]
    assert keep_best(boxes[:0], scores[:0], 0.5).tolist() == []


def test_of_equal_scores_the_first_stays() -> None:
    boxes = np.tile(np.array([0, 0, 4, 4], np.float32), (3, 1))
    assert keep_best(boxes, np.ones(3, np.float32), 0.5).tolist() == [0]
