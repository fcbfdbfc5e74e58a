"""`python -m farfield.apps.forecasting VERB [overrides]`: the same as `farfield forecasting VERB [overrides]`."""

import sys

from farfield.apps.cli import main

if __name__ == "__main__":
    sys.exit(main(["forecasting", *sys.argv[1:]]))
