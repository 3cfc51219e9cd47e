"""Anthropic's own API behind two clouds' accounts: the same batches, with other addresses, workspaces and credentials.

Source: docs.aws.amazon.com/claude-platform (making requests), ``anthropic`` 2.12 (``lib/aws``, ``lib/google_cloud``).
Neither is Bedrock or Vertex AI, whose Claude has no message batches.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.providers.anthropic.protocol import Anthropic, AnthropicOptions
from airflow_llm_batch.providers.auth import Credentials, Login
from airflow_llm_batch.providers.bedrock.credentials import Signed
from airflow_llm_batch.providers.bedrock.options import DEFAULT_CONNECTION, a_region, known_region
from airflow_llm_batch.providers.options import FORM, Text
from airflow_llm_batch.providers.vertex.credentials import DEFAULT_CONNECTION as GOOGLES
from airflow_llm_batch.providers.vertex.credentials import Google, chain

#: whom a signature for AWS is for
SERVICE = "aws-external-anthropic"
WORKSPACE: Any = Field(None, description="Workspace whose batches they are, wrkspc_...", json_schema_extra=FORM)


class AnthropicAWSOptions(AnthropicOptions):
    workspace_id: Text = WORKSPACE
    region: Annotated[Text, BeforeValidator(a_region)] = Field(
        None, description="Region, such as us-east-1; AWS_REGION where it is left out.", json_schema_extra=FORM
    )
    aws_conn_id: Text = Field(
        None, description="Airflow connection of type aws that signs calls (aws_default), where no key is given."
    )


class AnthropicGoogleOptions(AnthropicOptions):
    workspace_id: Text = WORKSPACE
    project: Text = Field(None, description="Google Cloud project that is billed.", json_schema_extra=FORM)
    location: Text = Field(None, description="Where calls go in: global if empty.", json_schema_extra=FORM)
    gcp_conn_id: Text = Field(
        None, description="Airflow connection of type google_cloud_platform for calls (google_cloud_default)."
    )
    impersonation_chain: Annotated[list[str] | None, BeforeValidator(chain)] = Field(
        None, description="Service accounts to act as, the last one asks; as the google connection has it by default."
    )


class AnthropicAWS(Anthropic):
    name = "anthropic-aws"
    title = "Claude Platform on AWS"
    Options = AnthropicAWSOptions
    options: AnthropicAWSOptions
    default_base_url = "https://aws-external-anthropic.{region}.api.aws"
    facts = Anthropic.facts._replace(credentials="key, or an aws connection")
    console_url = ""

    @property
    def region(self) -> str:
        """:raises ConfigurationError: where nobody says it."""
        return needed(known_region(self.options.region), "region", "us-east-1", self.title)

    def address(self) -> str:
        return self.default_base_url.format(region=self.region)

    @property
    def is_own(self) -> bool:
        known = known_region(self.options.region)
        return known is not None and self.base_url == self.default_base_url.format(region=known)

    def auth(self, login: Login) -> Credentials:
        workspace = needed(self.options.workspace_id, "workspace_id", "wrkspc_01AbCd", self.title)
        if login.key and not self.options.aws_conn_id:
            made = super().auth(login)
        else:
            made = Signed([self.base_url], self.options.aws_conn_id or DEFAULT_CONNECTION, self.region, SERVICE)
        made.besides = {**self.headers, "anthropic-workspace-id": workspace}
        return made


class AnthropicGoogle(Anthropic):
    name = "anthropic-google"
    title = "Claude on Google Cloud (Anthropic managed)"
    Options = AnthropicGoogleOptions
    options: AnthropicGoogleOptions
    default_base_url = (
        "https://claude.googleapis.com/v1/projects/{project}/locations/{location}/workspaces/{workspace}/invoke"
    )
    facts = Anthropic.facts._replace(credentials="google connection (key file, impersonation, ADC)")
    console_url = ""

    @property
    def path(self) -> dict[str, str]:
        """:raises ConfigurationError: for what is missing of it."""
        return {
            "project": needed(self.options.project, "project", "my-project", self.title),
            "location": self.options.location or "global",
            "workspace": needed(self.options.workspace_id, "workspace_id", "wrkspc_01AbCd", self.title),
        }

    def address(self) -> str:
        return self.default_base_url.format(**self.path)

    @property
    def is_own(self) -> bool:
        return self.base_url.startswith("https://claude.googleapis.com/")

    def auth(self, login: Login) -> Credentials:
        made = Google([self.base_url], self.options.gcp_conn_id or GOOGLES, self.options.impersonation_chain)
        made.besides = self.headers
        return made


def needed(value: str | None, name: str, example: str, title: str) -> str:
    """:raises ConfigurationError: for an option that has to be there and is not."""
    if not value:
        raise ConfigurationError(
            f'{title} needs {name!r} in the connection\'s extra, for example "{name}": "{example}". Nothing was sent.'
        )
    return value
