"""What a provider that is written elsewhere must pass: contract suites to inherit from in its own tests.

from airflow_llm_batch.testing import ProviderContract

class TestMine(ProviderContract): ...
"""

from airflow_llm_batch.testing.providers import ProviderContract, drive

__all__ = ["ProviderContract", "drive"]
