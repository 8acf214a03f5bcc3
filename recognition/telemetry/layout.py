"""The pages of TensorBoard's tab "Custom Scalars": which figures stand together.

Names are regular expressions, so that a chart has the figures of every set, rank and dataset.
"""

from typing import Final

Charts = dict[str, list[str]]  # what a chart shows, by its title

_SET = r"verification(_ema)?/.+"  # of weights as trained, and of averaged ones

PAGES: Final[dict[str, Charts]] = {
    "Training": {
        "Loss": [r"train/loss(/.+)?$"],
        "Mean cosine with the own centre": [r"train/cosine_positive(/.+)?$"],
        "Learning rate": [r"train/lr(_backbone)?$"],
        "Norm of the backbone's gradient, before clipping": [r"train/gradient_norm$"],
        "Epoch": [r"train/epoch$"],
    },
    "Head": {
        "Active classes of each rank": [r"train/active_classes_by_rank/.+"],
        "Active classes of all ranks": [r"train/active_classes(/.+)?$"],
        "Distinct classes of a batch": [r"train/positive_classes(/.+)?$"],
        "Norm of the centres' gradient": [r"train/gradient_norm_centres(/.+)?$"],
        "Seconds to choose the active classes": [r"train/selection_seconds(/.+)?$"],
        "Fraction of steps whose own classes fill the quota": [r"train/quota_overflow(/.+)?$"],
    },
    "Verification": {
        "Accuracy": [rf"{_SET}/accuracy$"],
        "True accept rate by false accept rate": [rf"{_SET}/tar_at_far/.+"],
        "Accuracy without mirror images": [rf"{_SET}/accuracy_no_flip$"],
        "Threshold, as a cosine": [rf"{_SET}/threshold_cosine$"],
        "Mean norm of the embeddings": [rf"{_SET}/embedding_norm$"],
    },
    "System": {
        "Images per second, all ranks": [r"train/images_per_second$"],
        "Fraction of time waiting for data, each rank": [r"train/data_wait_by_rank/.+"],
        "Memory by part, GiB, rank 0": [r"train/memory/.+"],
        "Peak memory of each rank, GiB": [r"train/memory_gb_by_rank/.+"],
        "Bad records, and steps skipped in fp16, so far": [
            r"train/bad_records$",
            r"train/skipped_steps$",
        ],
    },
}
