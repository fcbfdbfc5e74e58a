"""`python -m farfield DOMAIN VERB [overrides]`: the same as the console script."""

import sys

from farfield.apps.cli import main

sys.exit(main())
