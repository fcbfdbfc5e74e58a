"""`python -m farfield.apps.retrieval VERB [overrides]`: the same as `farfield retrieval VERB [overrides]`."""

import sys

from farfield.apps.cli import main

if __name__ == "__main__":
    sys.exit(main(["retrieval", *sys.argv[1:]]))
