"""`python -m falcon_agent` is `falcon-agent`."""

import sys

from falcon_agent.cli import main

if __name__ == "__main__":
    sys.exit(main())
