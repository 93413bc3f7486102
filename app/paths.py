"""Where things lie: the data directory and the resources that came with the program."""

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

PACKAGE = Path(__file__).resolve().parent
#: Set in the environment of a daemon that nobody watches: it logs to its rotated file only.
BACKGROUND = "PILOTHOUSE_BACKGROUND"


def resource(name: str) -> Path:
    """A file or folder shipped with the program: inside the wheel, or in the checkout it was run from.

    Raises `FileNotFoundError`.
    """
    checkout = {"models.json": "models.json", "requirements": "packaging/requirements"}
    places = [PACKAGE / "resources" / name, PACKAGE.parent / checkout.get(name, name)]
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(f"{name} is not part of this installation (looked in {', '.join(map(str, places))})")


def default_data_dir() -> Path:
    return Path(os.environ.get("PILOTHOUSE_DATA_DIR") or platformdirs.user_data_path("pilothouse", appauthor=False))


@dataclass(frozen=True)
class DataDir:
    """The one directory that holds everything a user would miss."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "pilothouse.db"

    @property
    def artifacts(self) -> Path:
        """Content-addressed blobs: ``artifacts/sha256/ab/abcdef…``."""
        return self.root / "artifacts"

    @property
    def models(self) -> Path:
        """``models/NAME/VERSION/…``: the blobs of a version under the names their engine expects."""
        return self.root / "models"

    @property
    def prefixes(self) -> Path:
        """Computed prefixes that language models left for their next start: a folder for each model file's digest."""
        return self.root / "prefixes"

    @property
    def downloads(self) -> Path:
        """Unfinished transfers, one folder a job."""
        return self.root / "downloads"

    @property
    def runtimes(self) -> Path:
        return self.root / "runtimes"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def settings(self) -> Path:
        return self.root / "settings.toml"

    @property
    def daemon_file(self) -> Path:
        """URL, pid and version of the daemon that owns this directory, while it runs."""
        return self.root / "daemon.json"

    def create(self) -> "DataDir":
        for folder in (self.artifacts, self.models, self.prefixes, self.downloads, self.runtimes, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        return self
