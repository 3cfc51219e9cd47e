"""What went wrong, in the words of vendors and gateways: passing, without money, refused by a filter, or final."""

import json

import pytest

from airflow_llm_batch.jobs.rounds.repair import is_worth_asking
from airflow_llm_batch.providers.anthropic.protocol import Anthropic
from airflow_llm_batch.providers.json_lines import bare, parse_line
from airflow_llm_batch.providers.openai.protocol import OpenAI
from airflow_llm_batch.providers.troubles import is_empty_account, tells, trouble_of
from airflow_llm_batch.results import Failure

OPENAI, ANTHROPIC = OpenAI("http://h"), Anthropic("http://h")


def of_row(error, status):
    """The result of a row whose line holds this error: in the line itself, or in the answer of that status."""
    response = {"status_code": status, "body": {"error": error}} if status else None
    line = {"custom_id": "a", "response": response, "error": None if status else error}
    return OPENAI.read(json.dumps(line).encode())


def is_asked_again(result, also=()):
    failure = Failure(0, b"1", result.status, result.error_code, result.error_message, 0)
    return is_worth_asking(failure, also)


AGAIN = [
    # OpenAI, in the error file of a batch that expired
    ({"code": None, "message": "An error occurred while processing your request. You can retry your request."}, 0),
    # Vertex behind a gateway, that tells its status in a sentence alone
    ({"code": "vertex_ai_error", "message": "429 RESOURCE_EXHAUSTED"}, 0),
    ({"code": "vertex_ai_error", "message": "Resource has been exhausted (e.g. check quota)."}, 0),
    # google.rpc.Code, in the lines of Gemini's and Vertex' batches
    ({"code": 4, "message": "Deadline expired before operation could complete."}, 0),
    ({"code": 8, "message": "Resource has been exhausted (e.g. check quota)."}, 0),
    ({"code": 13, "message": "Internal error encountered."}, 0),
    ({"code": "14", "message": "The service is currently unavailable."}, 0),
    ({"code": 499, "message": "The operation was cancelled.", "status": "CANCELLED"}, 499),
    # Bedrock's exceptions (botocore, bedrock-runtime)
    ({"code": "ThrottlingException", "message": "Too many requests, please wait."}, 0),
    ({"code": "InternalServerException", "message": "The system encountered an unexpected error."}, 0),
    ({"code": "ModelTimeoutException", "message": "Processing time exceeded the model timeout length."}, 0),
    ({"code": "ServiceUnavailableException", "message": "Bedrock is unable to process your request."}, 0),
    ({"code": "ModelNotReadyException", "message": "Model is not ready for inference."}, 0),
    # Groq's flex tier, TGI's generation errors
    ({"message": "Flex tier capacity exceeded, try again later", "code": "capacity_exceeded"}, 498),
    ({"message": "Request failed during generation: Server error", "type": "generation", "code": None}, 424),
    # a sentence alone
    *(
        ({"code": None, "message": message}, 0)
        for message in (
            "The server had an error while processing your request. Sorry about that!",
            "Internal error encountered.",
            "Model is currently loading",
            "upstream connect error or disconnect/reset before headers",
            "Connection error.",
            "Request timed out.",
            "Service is over capacity",
        )
    ),
    ({"code": "Throttling.RateQuota", "message": "Requests rate limit exceeded"}, 0),
    ({"message": "Service tier capacity exceeded", "type": "service_tier_capacity_exceeded", "code": "3505"}, 429),
    (
        {
            "code": 429,
            "message": "You exceeded your current quota, please check your plan and billing. Please retry in 9s.",
            "status": "RESOURCE_EXHAUSTED",
        },
        429,
    ),
]
NO_MONEY = [
    # DashScope, Moonshot, Zhipu, LiteLLM, OpenRouter, xAI, Fireworks, Anthropic, Volcengine, one-api
    ({"message": "make sure your account is in good standing.", "type": "Arrearage", "code": "Arrearage"}, 400),
    ({"message": "Your account is suspended", "type": "exceeded_current_quota_error"}, 429),
    ({"code": "1113", "message": "Insufficient balance or no resource package. Please recharge."}, 429),
    ({"message": "Budget has been exceeded! Current cost: 5.0", "type": "budget_exceeded", "code": "400"}, 400),
    ({"code": 402, "message": "This request requires more credits, or fewer max_tokens."}, 402),
    (
        {
            "code": "Some resource has been exhausted",
            "error": "Your team has either used all available credits or reached its monthly spending limit.",
        },
        403,
    ),
    ({"message": "possibly due to reaching the monthly spending limit", "code": "PRECONDITION_FAILED"}, 412),
    ({"type": "invalid_request_error", "message": "Your credit balance is too low to access the API."}, 400),
    ({"code": "AccountOverdueError", "message": "The account is overdue."}, 403),
    ({"code": "insufficient_user_quota", "message": "x"}, 403),
]
FINAL = [
    ({"code": 3, "message": "Request contains an invalid argument."}, 0),
    ({"code": "ValidationException", "message": "Malformed input request, try again"}, 0),
    ({"code": "AccessDeniedException", "message": "You don't have access to the model"}, 0),
    ({"code": "context_length_exceeded", "message": "Please try again with a shorter prompt"}, 0),
    # words of the row are none of the vendor's
    ({"message": "input_value='I'm told insufficient funds' is too long", "type": "BadRequestError", "code": 400}, 400),
    ({"message": "Cannot parse 'out of credits, billing limit", "type": "invalid_request_error", "code": None}, 400),
    ({"code": None, "message": 'Unknown role "too many requests, try again"'}, 0),
    ({"code": "invalid_prompt", "message": "About: insufficient funds"}, 400),
]
FILTERED = [
    # Azure, OpenAI (images, reasoning models), DashScope, OpenRouter, Bedrock's guardrails
    ({"message": "content management policy", "code": "content_filter", "innererror": {"code": "x"}}, 400),
    ({"message": "Your request was rejected as a result of our safety system.", "code": "moderation_blocked"}, 400),
    ({"message": "x", "type": "invalid_request_error", "code": "content_policy_violation"}, 400),
    (
        {
            "message": "Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
            "code": "invalid_prompt",
        },
        400,
    ),
    ({"message": "Input data may contain inappropriate content.", "code": "data_inspection_failed"}, 400),
    ({"code": 403, "message": "Your chosen model requires moderation and your input was flagged"}, 403),
    ({"code": "guardrail_intervened", "message": "x"}, 0),
]


@pytest.mark.parametrize(("error", "status"), AGAIN)
def test_a_trouble_of_the_moment_is_asked_again(error, status):
    """In any vendor's spelling, as a row of a batch and as its code alone."""
    result = of_row(error, status)
    assert result.status == "errored"
    assert is_asked_again(result), result.error_code
    assert not is_empty_account(result.error_code)


@pytest.mark.parametrize(("error", "status"), NO_MONEY)
def test_an_account_without_money_is_asked_again_by_choice_alone(error, status):
    """Waiting does not fill it, whatever the status."""
    result = of_row(error, status)
    assert result.status == "errored"
    assert (is_asked_again(result), is_asked_again(result, ["quota"])) == (False, True), result.error_code


@pytest.mark.parametrize(("error", "status"), FINAL)
def test_what_a_message_quotes_is_not_believed(error, status):
    """A row that was refused for good stays so: its own words, or a code that says so, do not make it pass."""
    result = of_row(error, status)
    assert result.status == "errored"
    assert not is_asked_again(result, ["quota"]), result.error_code


@pytest.mark.parametrize(("error", "status"), FILTERED)
def test_a_filter_refuses_in_any_spelling(error, status):
    """As a code or in a sentence: the row is refused, not errored, and not asked again."""
    result = of_row(error, status)
    assert result.status == "refused"
    assert result.error_code
    assert not is_asked_again(result)


def test_a_filter_of_anthropic_refuses():
    """Its errors have a sentence and no code of their own."""
    error = {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"}
    line = {"custom_id": "a", "result": {"type": "errored", "error": {"type": "error", "error": error}}}
    assert ANTHROPIC.read(json.dumps(line).encode()).status == "refused"


@pytest.mark.parametrize(
    ("code", "message", "status", "empty"),
    [
        ("400", "1 validation error: input_value='insufficient funds'", 400, False),
        ("400", "Insufficient balance", 0, True),
        ("429", "Insufficient balance", 0, True),
        ("model_not_found", "Insufficient balance", 0, False),
        ("model_not_found", "Insufficient balance", 402, True),
        ("", "You've used all available credits, you're out of credits", 0, True),
    ],
)
def test_a_message_is_believed_where_its_code_leaves_it_open(code, message, status, empty):
    """Or where the status speaks of money."""
    assert is_empty_account(code, message, status) is empty


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ({"code": None, "message": None}, False),
        ({"code": "", "details": [], "inner": {"message": None}}, False),
        ([{"message": None}], False),
        ({}, False),
        ("", False),
        ({"inner": {"message": "x"}}, True),
        ("x", True),
        (True, True),
    ],
)
def test_an_error_of_nulls_is_none(error, says):
    """As typed serializers write it beside a good answer."""
    assert tells(error) is says
    assert trouble_of(error).code


@pytest.mark.parametrize(
    "before",
    [b"", b"\n\n\n", b": OPENROUTER PROCESSING\n\n: keep-alive\n\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf: x\r\n\r\n"],
)
def test_what_stands_before_the_json_is_left_out(before):
    """A byte order mark, blank lines, comments of an event stream."""
    assert bare(before + b'{"a": ": b"}') == b'{"a": ": b"}'
    assert parse_line(before + b'{"a": ": b"}') == {"a": ": b"}
