"""`python -m seqkit`."""

import os
import sys

# `python -m` puts the working folder where modules are looked for, and `seqkit` does not: what lies there, such as a
# file yaml.py in a folder from a stranger, is not to be imported by accident.
if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False) and sys.path[:1] in ([""], [os.getcwd()]):
    del sys.path[0]

from seqkit.cli import main

if __name__ == "__main__":
    main()
