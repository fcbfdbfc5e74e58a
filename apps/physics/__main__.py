"""`python -m farfield.apps.physics VERB [overrides]`: the same as `farfield physics VERB [overrides]`."""

import sys

from farfield.apps.cli import main

if __name__ == "__main__":
    sys.exit(main(["physics", *sys.argv[1:]]))
