"""What the launcher runs: doit with i12e's parts."""

import sys

try:
    from i12e.engine import main

    status = main(sys.argv[1:])
except KeyboardInterrupt:  # while the packages are still being imported
    status = 130
sys.exit(status)
