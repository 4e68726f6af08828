"""What Python loads first in the processes that tests start: has their statements watched too."""

import importlib.abc
import importlib.util
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve()
ROOT = HERE.parents[3]
FOLDER = os.environ.get("REFUSED_STATEMENTS")
HOOKS = {"app.database.connections": "watch_cursors", "app.database.exchange": "watch_exchanges"}


class Finder(importlib.abc.MetaPathFinder):
    """Adds a hook to the loading of our modules; not to those of another checkout or release."""

    watch = None

    def find_spec(self, name, path, target=None):
        hook = HOOKS.pop(name, None)
        if hook is None:
            return None
        spec = importlib.util.find_spec(name)
        if spec is None or not str(spec.origin).startswith(f"{ROOT}/app/"):
            return spec
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            getattr(self.shapes(), hook)(Finder.watch)

        spec.loader.exec_module = exec_module
        return spec

    @staticmethod
    def shapes():
        """Return tests/support/shapes.py, wherever the process runs."""
        if "watched_shapes" not in sys.modules:
            path = HERE.parents[1] / "shapes.py"
            spec = importlib.util.spec_from_file_location("watched_shapes", path)
            sys.modules["watched_shapes"] = module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            Finder.watch = module.Watch(Path(FOLDER))
        return sys.modules["watched_shapes"]


if FOLDER and Path(FOLDER).is_dir():
    sys.meta_path.insert(0, Finder())
