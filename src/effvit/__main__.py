"""`python -m effvit`, which is how `torchrun -m effvit` starts it too."""

from __future__ import annotations

from effvit.cli.main import main

if __name__ == "__main__":
    main()
