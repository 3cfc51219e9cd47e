"""A local server that speaks the vendors' batch protocols: for a first run, and for tests.

Its state lies in memory and a temporary directory, its clock is the wall's: a batch's state is a function of how long
ago it was created, and its answers are a function of what was asked.
"""

from airflow_llm_batch.emulator.server import Emulator

__all__ = ["Emulator"]
