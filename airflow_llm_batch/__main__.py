"""``python -m airflow_llm_batch run|list|show|cancel|cost``"""

from __future__ import annotations

import sys

from airflow_llm_batch.console.cli import main

sys.exit(main())
