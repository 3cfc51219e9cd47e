"""What a connection to Bedrock may say in its extra."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.providers.bedrock import objects
from airflow_llm_batch.providers.options import FORM, Options, Text, Texts, is_empty

Form = Literal["auto", "InvokeModel", "Converse"]
DEFAULT_CONNECTION = "aws_default"
ROLE = re.compile(r"arn:aws(-[^:]+)?:iam::([0-9]{12})?:role/.+")
REGION = re.compile(r"[a-z]{2,4}(-[a-z]+)+-\d")
HOURS = range(24, 169)


def an_hour(value: Any) -> int | None:
    if is_empty(value):
        return None
    found = int(value) if str(value).isdigit() else 0
    if found not in HOURS:
        raise ConfigurationError(
            f"timeout_hours is {value!r}; Bedrock takes whole hours from 24 to 168. Nothing was sent."
        )
    return found


def a_role(value: Any) -> str | None:
    if is_empty(value):
        return None
    if not isinstance(value, str) or not ROLE.fullmatch(value):
        raise ConfigurationError(
            f"role_arn is {value!r}; give a service role's ARN, arn:aws:iam::123456789012:role/name. Nothing was sent."
        )
    return value


def a_region(value: Any) -> str | None:
    if is_empty(value):
        return None
    if not isinstance(value, str) or not REGION.fullmatch(value):
        raise ConfigurationError(f"region is {value!r}; give one such as us-east-1. Nothing was sent.")
    return value


def known_region(given: str | None) -> str | None:
    """A region, as far as anybody says."""
    return given or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


def several(value: Any) -> list[str]:
    """A list of texts, or one."""
    given = [value] if isinstance(value, str) and value else value or []
    if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
        raise ConfigurationError(f"anthropic_beta is {value!r}; give a text, or a list of them. Nothing was sent.")
    return given


class AwsOptions(Options):
    """What both of Bedrock's batch APIs need."""

    region: Annotated[Text, BeforeValidator(a_region)] = Field(
        None, description="Region, such as us-east-1; AWS_REGION where it is left out.", json_schema_extra=FORM
    )
    role_arn: Annotated[Text, BeforeValidator(a_role)] = Field(
        None, description="ARN of the service role that reads and writes the objects in S3.", json_schema_extra=FORM
    )
    storage: Text = Field(
        None,
        description="s3://bucket/prefix for requests and results, where Bedrock cannot read the job directory itself.",
        json_schema_extra=FORM,
    )
    aws_conn_id: Text = Field(
        None,
        description="Airflow connection of type aws that signs calls and opens S3 (aws_default).",
        json_schema_extra=FORM,
    )
    kms_key: Text = Field(None, description="KMS key (id, ARN or alias) that results are encrypted with.")

    @property
    def s3_connection(self) -> str:
        return self.aws_conn_id or DEFAULT_CONNECTION

    @property
    def known_region(self) -> str | None:
        return known_region(self.region)

    def opened(self, uri: str) -> str:
        """An address with the connection that opens it: its own, the storage's where it lies in that bucket, or the one
        that signs."""
        if objects.connection_in(uri):
            return uri
        storage = self.storage or ""
        bucket = objects.plain(storage).removeprefix("s3://").partition("/")[0]
        theirs = objects.connection_in(storage) if bucket and uri.startswith(f"s3://{bucket}/") else None
        return objects.with_connection(uri, theirs or self.s3_connection)

    def needed_role(self) -> str:
        """:raises ConfigurationError: without a service role."""
        if not self.role_arn:
            raise ConfigurationError(
                "Bedrock's batches run under a service role: set 'role_arn' in the connection's extra, for example "
                '"role_arn": "arn:aws:iam::123456789012:role/bedrock-batch". Nothing was sent.'
            )
        return self.role_arn


class BedrockOptions(AwsOptions):
    invocation_type: Form = Field(
        "auto",
        description='Whose words requests are in: the model\'s own body ("InvokeModel"), "Converse", or what fits.',
    )
    timeout_hours: Annotated[int | None, BeforeValidator(an_hour)] = Field(
        None, description="Hours after which a job is ended, 24 to 168 (24)."
    )
    bucket_owner: Text = Field(None, description="Account that owns the bucket, where it is another's.")
    runtime_host: Text = Field(None, description="Address of bedrock-runtime, for calls one by one.")
    profiles: Texts = Field(
        {}, description="Application inference profiles, by id or ARN, to the model behind each: prices go by it."
    )
    anthropic_beta: Annotated[list[str], BeforeValidator(several)] = Field(
        [], description="Betas of Anthropic's API, for Claude's own body."
    )
    s3_media: bool = Field(
        False,
        description="true to send s3:// addresses of media as they are: calls read them; a batch reads only what lies "
        "in its own input folder.",
    )
