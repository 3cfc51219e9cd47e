"""What users write in a DAG file about their rows and requests."""

from airflow_llm_batch.data.answer_cache import AnswerCache
from airflow_llm_batch.data.compare import Compare
from airflow_llm_batch.data.failed import FailedRows
from airflow_llm_batch.data.partitions import partitions
from airflow_llm_batch.data.requests import ChatRequest, EmbeddingRequest, RawRequest
from airflow_llm_batch.data.sql import Sql
from airflow_llm_batch.data.table import DeltaTable, Table

__all__ = [
    "AnswerCache",
    "ChatRequest",
    "Compare",
    "DeltaTable",
    "EmbeddingRequest",
    "FailedRows",
    "RawRequest",
    "Sql",
    "Table",
    "partitions",
]
