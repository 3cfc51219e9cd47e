"""Names of the result formats, cheap to know while a DAG file is parsed."""

from __future__ import annotations

from airflow_llm_batch.exceptions import ConfigurationError

FORMATS: dict[str, str] = {
    "jsonl": "airflow_llm_batch.data.sinks.JsonlSink",
    "jsonl.gz": "airflow_llm_batch.data.sinks.GzipJsonlSink",
    "jsonl.zst": "airflow_llm_batch.data.sinks.ZstdJsonlSink",
    "parquet": "airflow_llm_batch.data.parquet_sink.ParquetSink",
}


def check_format(name: str) -> str:
    """The sink class's path.

    :raises ConfigurationError: for an unknown format; lists the known ones.
    """
    if name not in FORMATS:
        raise ConfigurationError(f"Unknown format {name!r}; known are {', '.join(sorted(FORMATS))}.")
    return FORMATS[name]
