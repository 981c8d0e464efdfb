"""Builds the release, checks it, and pushes each of its folders as a repository of the Hugging Face Hub.

    granted push --preset tiny --build-only --output release     # the folders; in `release`, load them by their names
    granted push --preset tiny --to USER --dry-run               # every file that would be pushed
    granted push --preset tiny --to USER                         # private repositories, one commit each

`python push_to_hub.py` is the same command. Broken off, it goes on where it was. Tiny, on CPU: the first line.
"""

import sys

from granted.publishing.push import push


__all__ = ["push"]

if __name__ == "__main__":
    from granted.cli import main

    sys.argv[1:1] = ["push"]
    main()
