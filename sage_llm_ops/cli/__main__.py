"""`python -m sage_llm_ops.cli`."""

import sys

from sage_llm_ops.cli import main

sys.exit(main())
