"""Hatch's build hook: compiles the CPU kernels into the wheel, which then is of this platform.

Where they cannot be compiled the wheel is a pure one, in which torch serves; the reason is printed.
"""

import importlib.util
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_BUILD = Path("engine/attendant_engine/kernels/cpu/build.py")


class KernelBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs before the wheel's files are collected, also for an editable install, whose shared object lies in the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and add the shared object to what ``version`` ("standard" or "editable") is made of."""
        kernels = _load(Path(self.root) / _BUILD)
        reason = kernels.why_not()
        if reason is not None:
            self.app.display_warning(reason)
            return
        library = kernels.build()
        build_data["pure_python"] = False
        # Loaded with ctypes: any Python 3 will do, but no other platform.
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
        # Git ignores it, and so would hatch.
        build_data["artifacts"].append(library.relative_to(self.root).as_posix())


def _load(path: Path) -> ModuleType:
    """Import the kernels' build from its file: the package around it needs torch."""
    spec = importlib.util.spec_from_file_location("attendant_cpu_kernels_build", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
