"""Check which room imports which: runs import-linter over the sources as they are installed.

    python tools/layers.py build/source          # as `make check` does; the contracts are in .importlinter

The editable install finds ``sparseflow`` in several folders, import-linter wants one: its finder is left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

from importlinter.cli import lint_imports

CONTRACTS = Path(__file__).parents[1] / ".importlinter"


def check(sources: Path, contracts: Path = CONTRACTS) -> int:
    """Print what each contract says of the sources, and return the exit status.

    Args:
        sources: the folder with the package ``sparseflow`` in one piece (`make source`).
        contracts: import-linter's configuration.
    """
    sys.meta_path[:] = [finder for finder in sys.meta_path if isinstance(finder, type)]
    sys.modules.pop("sparseflow", None)
    sys.path.insert(0, str(sources))
    return lint_imports(config_filename=str(contracts), no_cache=True)


if __name__ == "__main__":
    sys.exit(check(Path(sys.argv[1])))
