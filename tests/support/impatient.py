"""The command with a daemon that looks at its source every moment instead of every minute.

    Running(..., prefix=IMPATIENT)

`Running` puts its own words for the command behind the prefix; they are dropped here.
"""

from __future__ import annotations

import sys
from typing import Final

IMPATIENT: Final = (sys.executable, "-m", "tests.support.impatient")
CHECK_SECONDS: Final = 0.2


def main() -> None:
    """Run the command of the arguments behind `python -m cli.main`."""
    from cli.main import main as command
    from sync import daemon

    assert daemon.CHECK_SECONDS > CHECK_SECONDS
    daemon.CHECK_SECONDS = CHECK_SECONDS
    del sys.argv[1:4]
    sys.argv[0] = "qdrant-bridge"
    command()


if __name__ == "__main__":
    main()
