"""`python -m fibjax`: the same as the `fibjax` command."""
import sys

from fibjax.cli.main import main

if __name__ == '__main__':
  sys.exit(main())
