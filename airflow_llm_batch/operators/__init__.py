"""Airflow on one side, ``jobs`` on the other."""

from airflow_llm_batch.jobs.options import Recovery
from airflow_llm_batch.operators.cleanup import CleanupJobsOperator
from airflow_llm_batch.operators.compact import CompactAnswersOperator
from airflow_llm_batch.operators.completion import CompletionOperator
from airflow_llm_batch.operators.fetch import FetchResultsOperator
from airflow_llm_batch.operators.handle import completed_jobs
from airflow_llm_batch.operators.llm_batch import LLMBatchOperator
from airflow_llm_batch.operators.submit import SubmitBatchOperator

__all__ = [
    "CleanupJobsOperator",
    "CompactAnswersOperator",
    "CompletionOperator",
    "FetchResultsOperator",
    "LLMBatchOperator",
    "Recovery",
    "SubmitBatchOperator",
    "completed_jobs",
]
