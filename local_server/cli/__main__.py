"""`python -m local_server.cli`, the same as the command `comfyfn`."""

import sys

from local_server.cli import main

sys.exit(main())
