"""``python -m orchestrator``."""

import os
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent


def leave_current_folder() -> None:
    """Take the current folder off the module path, unless it is this program's own source.

    ``python -m`` looks there first, and in a workspace it would take the folders ``data`` and
    ``results`` for the packages of these names.
    """
    here = os.path.realpath("")
    if here != str(SOURCE):
        sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder) != here]


if __name__ == "__main__":
    leave_current_folder()
    from orchestrator.own_packages import insist_on_own_packages

    insist_on_own_packages()
    from orchestrator.cli import main

    sys.exit(main())
