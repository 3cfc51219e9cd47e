"""LLM work in bulk from Apache Airflow, at the batch price."""

__version__ = "0.1.0"
