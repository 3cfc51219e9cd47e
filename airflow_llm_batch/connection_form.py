"""Made by ``airflow_llm_batch.providers.describe`` from the providers' options; not edited by hand."""

from __future__ import annotations

from typing import Any

# fmt: off
FIELDS: dict[str, Any] = {'provider': {'label': 'Provider',
              'description': 'Whose batch API it is.',
              'schema': {'type': 'string',
                         'enum': ['openai',
                                  'azure',
                                  'anthropic',
                                  'anthropic-aws',
                                  'anthropic-google',
                                  'vertex',
                                  'gemini',
                                  'bedrock',
                                  'bedrock-openai',
                                  'openrouter',
                                  'xai',
                                  'fireworks',
                                  'mistral',
                                  'groq',
                                  'together',
                                  'deepinfra',
                                  'doubleword',
                                  'dashscope',
                                  'kimi',
                                  'parasail',
                                  'perplexity',
                                  'novita',
                                  'litellm',
                                  'vllm',
                                  'ollama',
                                  'llamacpp',
                                  'compatible']}},
 'timeout': {'label': 'Timeout',
             'description': 'Seconds of silence allowed in a call (120).',
             'schema': {'type': ['integer', 'null'], 'minimum': 1}},
 'organization': {'label': 'Organization',
                  'description': 'openai, bedrock-openai: Organization id, where the key has several.',
                  'schema': {'type': ['string', 'null']}},
 'project': {'label': 'Project',
             'description': 'openai, bedrock-openai: Project id, where the key has several. anthropic-google: '
                            'Google Cloud project that is billed. vertex: Google Cloud project that runs the jobs.',
             'schema': {'type': ['string', 'null']}},
 'api_version': {'label': 'Api version',
                 'description': 'azure: The dated API (/openai/...?api-version=2025-04-01-preview) instead of the '
                                'v1 API, which has no version, or preview.',
                 'schema': {'type': ['string', 'null']}},
 'azure_conn_id': {'label': 'Azure conn id',
                   'description': 'azure: An Airflow connection of type azure that gives Entra tokens.',
                   'schema': {'type': ['string', 'null']}},
 'tenant_id': {'label': 'Tenant id',
               'description': "azure: Entra's tenant, with a client id as the connection's login and its secret as "
                              'the password.',
               'schema': {'type': ['string', 'null']}},
 'managed_identity': {'label': 'Managed identity',
                      'description': "azure: true for tokens of the machine's own identity (workload identity, "
                                     "managed identity, environment), or a managed identity's client id.",
                      'schema': {'type': ['string', 'null']}},
 'anthropic_version': {'label': 'Anthropic version',
                       'description': 'anthropic, anthropic-aws, anthropic-google: API version date, 2023-06-01 if '
                                      'empty: temperature is legal there.',
                       'schema': {'type': ['string', 'null']}},
 'workspace_id': {'label': 'Workspace id',
                  'description': 'anthropic-aws, anthropic-google: Workspace whose batches they are, wrkspc_...',
                  'schema': {'type': ['string', 'null']}},
 'region': {'label': 'Region',
            'description': 'anthropic-aws, bedrock, bedrock-openai: Region, such as us-east-1; AWS_REGION where it '
                           'is left out.',
            'schema': {'type': ['string', 'null']}},
 'location': {'label': 'Location',
              'description': 'anthropic-google: Where calls go in: global if empty. vertex: Where they run: a '
                             'region, global (the default), us or eu; Claude wants one of its regions.',
              'schema': {'type': ['string', 'null']}},
 'storage': {'label': 'Storage',
             'description': 'vertex: gs://bucket/prefix that the jobs read and write where the job directory is '
                            'not in Cloud Storage. bedrock, bedrock-openai: s3://bucket/prefix for requests and '
                            'results, where Bedrock cannot read the job directory itself.',
             'schema': {'type': ['string', 'null']}},
 'gcp_conn_id': {'label': 'Gcp conn id',
                 'description': 'vertex: Airflow connection of type google_cloud_platform for calls and results '
                                '(google_cloud_default).',
                 'schema': {'type': ['string', 'null']}},
 'role_arn': {'label': 'Role arn',
              'description': 'bedrock, bedrock-openai: ARN of the service role that reads and writes the objects '
                             'in S3.',
              'schema': {'type': ['string', 'null']}},
 'aws_conn_id': {'label': 'Aws conn id',
                 'description': 'bedrock, bedrock-openai: Airflow connection of type aws that signs calls and '
                                'opens S3 (aws_default).',
                 'schema': {'type': ['string', 'null']}},
 'account': {'label': 'Account',
             'description': 'fireworks: Fireworks account id, as its addresses have it.',
             'schema': {'type': ['string', 'null']}}}
