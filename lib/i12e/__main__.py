"""What the launcher runs: doit with i12e's parts."""

import sys

from i12e.engine import main

sys.exit(main(sys.argv[1:]))
