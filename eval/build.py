"""From the config's section `verification` to the verification sets of a run."""

from data.records.locations import folder_of, is_url
from eval.verifier import Verifier
from recognition.config import Config
from recognition.distributed import World


def build_verifier(config: Config, world: World) -> Verifier:
    """Return the verification sets. Raises `ValueError` for one that does not exist.

    Names are looked up in `verification.folder`, by default the folder of the training data.
    """
    settings, train = config.verification, config.data.train
    folder = settings.folder
    if folder is None and train is not None:
        first = train[0] if isinstance(train, list) else train
        folder = None if is_url(first) else folder_of(first)
    return Verifier(
        settings.sets,
        folder=folder,
        image_size=config.data.image_size,
        batch_size=settings.batch_size,
        world=world,
    )
