"""One attack: a fresh folder for each try, and how often it did harm."""

import shutil
from collections.abc import Callable
from pathlib import Path

from recognition.distributed import World
from tests.chaos.forks import fork_ranks


class HarmError(AssertionError):
    """Something was lost, altered or executed."""


class Attack:
    """A folder that is fresh for each try, and the count of tries and harm."""

    def __init__(self, name: str, work: Path) -> None:
        self.name, self.work = name, work
        self.folder, self.log = work / "try", work / "log"
        self.tries = 0
        self.harm: list[str] = []

    def clean(self) -> None:
        """Make the folder of the next try."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def attempt(self, what: str, function: Callable[[Path], None]) -> None:
        """Try once."""
        self.tries += 1
        self.clean()
        try:
            function(self.folder)
        except AssertionError as error:
            self.harm.append(f"{what}: {error}")

    def ranks(self, folder: Path, count: int, function: Callable[[World], None]) -> list[int]:
        """Run ranks; what they print goes to the log."""
        folder.mkdir(parents=True, exist_ok=True)
        self.log.write_text("")
        return fork_ranks(count, function, self.log)

    def well(self, folder: Path, count: int, function: Callable[[World], None]) -> None:
        """Run ranks that must all end with 0."""
        codes = self.ranks(folder, count, function)
        if any(codes):
            text = self.log.read_text().strip().rpartition("\n")[2]
            raise HarmError(f"ranks ended with {codes}: {text[:300]}")
