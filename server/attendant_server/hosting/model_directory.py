"""The directory whose models may be loaded while the server runs: a caller names one in it, and never a path.

Names are plain; what a symbolic link leads to must lie in the directory as well.
"""

import os.path
import re
from pathlib import Path

from attendant_engine.tokenizers import Tokenizer
from attendant_server.config import ModelSettings
from attendant_server.errors import ServingError
from attendant_server.gateway.served_model import load_tokenizer
from attendant_server.hosting.adapter_paths import assign_adapters
from attendant_server.hosting.model_paths import ModelPathError
from attendant_server.violations import did_you_mean, show_value

NOT_BY_BUILDER = (
    "Models are loaded at run time where attendant serve has a cluster of its own; here leave model_directory out, and deploy the "
    "application anew with another list of models, which fails no call."
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,3}")
_FORM = "letters, digits, dots, dashes and underscores, in at most 4 parts with slashes between"


class ModelDirectory:
    """What lies in ``path``. Raises ``ModelPathError`` where that is no directory."""

    def __init__(self, path: str) -> None:
        self._root = Path(os.path.expanduser(path)).resolve()
        if not self._root.is_dir():
            raise ModelPathError(f"--model-directory is {path}, which is no directory; name one that holds models' directories.")

    @property
    def path(self) -> str:
        """The whole path."""
        return str(self._root)

    def find(self, name: str) -> Path:
        """Return the model's directory. Raises ``ServingError`` for a name that is not of one in here."""
        if _NAME.fullmatch(name) is None:
            raise ServingError("invalid_value", f"'directory' is {show_value(name)}; it must be {_FORM}", param="directory")
        found = (self._root / name).resolve()
        if not found.is_relative_to(self._root) or found == self._root or not (found / "config.json").is_file():
            known = sorted(path.parent.name for path in self._root.glob("*/config.json"))
            hint = did_you_mean(name, known)
            raise ServingError(
                "invalid_value", f"there is no model in {show_value(name)} of this server's model directory{hint}", param="directory"
            )
        return found


def read_model(name: str, path: Path) -> tuple[ModelSettings, Tokenizer]:
    """Read what lies beside the weights in ``path``: adapters' names and the tokenizer. Raises ``ServingError``, ``CheckpointError``."""
    try:
        (model,) = assign_adapters([ModelSettings(name=name, path=str(path))], ())
    except ModelPathError as error:
        raise ServingError("invalid_value", str(error), param="directory") from None
    return model, load_tokenizer(name, path)
