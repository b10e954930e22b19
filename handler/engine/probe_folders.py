"""Tells ComfyUI's registry of model folders. Run by its interpreter: stdlib only, Python 3.9+.

Its first argument is ComfyUI's folder. Only the module of the registry is imported, no torch; an
extra_model_paths.yaml beside main.py is applied as ComfyUI does. Prints one JSON object, last.
"""

from __future__ import annotations

import sys

HOME = sys.argv[1]
# In place of our own folder: a module of ours must not stand in for one of the library's. And
# ComfyUI's parser must not see our argument.
sys.path[0], sys.argv = HOME, sys.argv[:1]

import importlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
from typing import Any  # noqa: E402


def registry() -> dict[str, Any]:
    """Folder of the models, and by name the folders searched and the suffixes listed."""
    folder_paths = importlib.import_module("folder_paths")
    extra = os.path.join(HOME, "extra_model_paths.yaml")  # noqa: PTH118
    if os.path.isfile(extra):  # noqa: PTH113
        try:
            importlib.import_module("utils.extra_config").load_extra_path_config(extra)
        except Exception as error:  # noqa: BLE001 - ComfyUI itself will say what is wrong with it
            print(f"{extra}: {error}", file=sys.stderr)
    known = folder_paths.folder_names_and_paths
    return {
        "models_dir": folder_paths.models_dir,
        "folders": {name: [list(rest[0]), sorted(rest[1])] for name, rest in known.items()},
    }


def main() -> None:
    """Print what was found."""
    os.chdir(HOME)
    print(json.dumps(registry()))


if __name__ == "__main__":
    main()
