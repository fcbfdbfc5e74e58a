"""`python -m farfield.apps.genomics VERB [overrides]`: the same as `farfield genomics VERB [overrides]`."""

import sys

from farfield.apps.cli import main

if __name__ == "__main__":
    sys.exit(main(["genomics", *sys.argv[1:]]))
