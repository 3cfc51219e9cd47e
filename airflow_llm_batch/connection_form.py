"""Made by ``airflow_llm_batch.providers.describe`` from the providers' options; not edited by hand."""

from __future__ import annotations

from typing import Any

# fmt: off
FIELDS: dict[str, Any] = {'provider': {'label': 'Provider',
              'description': 'Whose batch API it is.',
              'schema': {'type': ['string', 'null'], 'enum': ['openai', 'anthropic']}},
 'timeout': {'label': 'Timeout',
             'description': 'Seconds of silence allowed in a call (120).',
             'schema': {'type': ['integer', 'null'], 'minimum': 1}},
 'organization': {'label': 'Organization',
                  'description': 'Organization id, where the key has several.',
                  'schema': {'type': ['string', 'null']}},
 'project': {'label': 'Project',
             'description': 'Project id, where the key has several.',
             'schema': {'type': ['string', 'null']}},
 'anthropic_version': {'label': 'Anthropic version',
                       'description': 'API version date, 2023-06-01 if empty: temperature is legal there.',
                       'schema': {'type': ['string', 'null']}}}
