"""Gemini's answers in the neutral shape, in either spelling, from the Developer API and from Vertex AI.

Every field is coerced when it is read: whatever JSON stands in its place, the row gets a result.

Source: Gemini's API reference (GenerateContentResponse, Candidate, FinishReason, UsageMetadata), google-genai's types.
"""

from __future__ import annotations

from typing import Any

from airflow_llm_batch.providers.coerce import (
    cut_call,
    members,
    objects,
    text_of,
    tool_call,
    vector_of,
    whole,
    word,
)
from airflow_llm_batch.providers.endings import Endings, as_choice, fail, invalid, judge, unreadable
from airflow_llm_batch.providers.gemini.words import get
from airflow_llm_batch.providers.troubles import trouble_of
from airflow_llm_batch.results import Result

ENDINGS = Endings(good=frozenset({"stop"}), calling=frozenset(), cut=frozenset({"max_tokens", "continuation"}))
#: endings by which a filter or a policy stops an answer, in words that no other vendor has
REFUSED = frozenset({"SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY"}) | {
    *("IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "ESCALATION", "PUP_LIMITED_DISABLED", "MODEL_ARMOR", "JAILBREAK")
}
#: endings by which the model's own words make no answer
BROKEN = frozenset(
    {"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MALFORMED_RESPONSE"}
    | {"MISSING_THOUGHT_SIGNATURE"}
)
UNSPECIFIED = ("FINISH_REASON_UNSPECIFIED", "BLOCKED_REASON_UNSPECIFIED", "BLOCK_REASON_UNSPECIFIED")
#: parts of an answer that fields of their own do not hold, and those among them that are only asked of a tool
MEDIA = ("inlineData", "fileData", "executableCode", "codeExecutionResult", "toolCall", "toolResponse")
ASKED = ("executableCode", "toolCall")
#: modalities whose tokens have prices of their own: in an answer, and all of them in what is embedded. In any other
#: prompt pictures and films cost what text costs
APART = ("AUDIO", "IMAGE", "VIDEO")
DRAWN = "image_output_tokens"
#: models whose searches are billed by the prompt, however many there are
BY_PROMPT = ("gemini-1", "gemini-2")


def read_response(response: dict[str, Any], result: Result) -> None:
    """Fill in what a ``GenerateContentResponse`` or an embedding's answer says.

    :param result: with its ``custom_id``; all else comes from here.
    """
    result.model = (word(get(response, "modelVersion")) or "").removeprefix("models/") or None
    read_usage(response, result)
    if (vectors := vectors_in(response)) is not None:
        read_embedding_usage(response, result)
        read_vectors(vectors, result)
        return
    candidates = objects(response.get("candidates"))
    feedback = members(get(response, "promptFeedback"))
    reason = known(get(feedback, "blockReason"))
    if not candidates and reason:
        result.finish_reason = reason
        said = text_of(get(feedback, "blockReasonMessage"))
        refused(result, blamed(feedback) or reason, said or f"The prompt was blocked: {reason}.")
    elif not candidates:
        unreadable(result, "it has no candidates")
    else:
        read_candidates(candidates, result)


def read_error(error: Any, result: Result, status: int = 0) -> None:
    """Fill in a failed row from a ``google.rpc.Status``, or from whatever stands in its place.

    :param status: the HTTP status of a call, 0 where there was none.
    """
    trouble = trouble_of(error, status)
    if trouble.code in ("cancelled", "CANCELLED"):
        trouble = trouble._replace(code="batch_cancelled")
    fail(result, trouble._replace(message=trouble.message or "The vendor reported an error without a message."))


def known(reason: Any) -> str | None:
    """A reason in capitals; None for none, and for the word that says there is none."""
    found = (word(reason) or "").upper()
    return None if found in ("", *UNSPECIFIED) else found


def read_candidates(candidates: list[dict[str, Any]], result: Result) -> None:
    """The first candidate is the row's answer; where several were asked for, ``choices`` holds them all."""
    # A zero is left out, so the first one has no index.
    places = [whole(candidate.get("index")) or 0 for candidate in candidates]
    if len(set(places)) == len(places):
        candidates = [one for _, one in sorted(zip(places, candidates, strict=True), key=lambda pair: pair[0])]
    read_candidate(candidates[0], result)
    if len(candidates) > 1 or result.choices:
        every = [as_choice(result)]
        for candidate in candidates[1:]:
            one = Result()
            read_candidate(candidate, one)
            every.append(as_choice(one))
        result.choices = every
    searches(candidates, result)
    if DRAWN not in (result.tool_uses or {}) and any(map(is_drawn, candidates)):
        # As with searches: there are some, and nobody tells how many.
        result.tool_uses = {**(result.tool_uses or {}), DRAWN: 0}


def is_drawn(candidate: dict[str, Any]) -> bool:
    """Whether an answer holds a picture that is no thought: those are not counted as pictures."""
    parts = objects(members(candidate.get("content")).get("parts"))
    packed = [get(part, "inlineData") for part in parts if not part.get("thought")]
    return any((word(get(held, "mimeType")) or "").startswith("image/") for held in packed)


def read_candidate(candidate: dict[str, Any], result: Result) -> None:
    parts = objects(members(candidate.get("content")).get("parts"))
    texts = [text_of(part["text"]) or "" for part in parts if "text" in part and not part.get("thought")]
    thoughts = [text_of(part["text"]) or "" for part in parts if "text" in part and part.get("thought")]
    result.text = "".join(texts) if texts else None
    result.reasoning = "\n".join(filter(None, thoughts)) or None
    asked = [members(call) for part in parts if (call := get(part, "functionCall")) is not None]
    calls = [tool_call(call.get("id"), call.get("name"), call.get("args") or {}) for call in asked]
    result.tool_calls = calls or None
    result.citations = citations_of(candidate)
    result.logprobs = logprobs_of(members(get(candidate, "logprobsResult")))
    result.finish_reason = word(get(candidate, "finishReason"))
    media = [part for part in parts if any(get(part, name) is not None for name in MEDIA) and not part.get("thought")]
    # What the model asked of the vendor's tools is no answer; what they made may be one.
    made = [part for part in media if not any(get(part, name) is not None for name in ASKED)]
    result.choices = [{"media": made}] if made else None
    settle(candidate, calls, result)
    result.choices = [{"media": media}] if media else None


def settle(candidate: dict[str, Any], calls: list[dict[str, Any]], result: Result) -> None:
    """The status, from the ending and from what there is."""
    reason, said = known(result.finish_reason), text_of(get(candidate, "finishMessage"))
    if reason in REFUSED:
        refused(result, blamed(candidate) or reason, said or f"A content filter stopped it: {reason}.")
    elif reason in BROKEN:
        invalid(result, reason.lower(), said or f"The answer ended as {reason}, and is none.")
    else:
        judge(result, ENDINGS, cut_call=cut_call(calls))
        if result.status == "refused":
            result.error_code = result.error_code or result.finish_reason
        if result.status == "truncated" and said:
            result.error_message = f"{result.error_message or 'The answer was cut short.'} {said}"


def refused(result: Result, category: str, message: str) -> None:
    result.status, result.error_code, result.error_message = "refused", category, message


def blamed(rated: Any) -> str | None:
    """The categories of harm that blocked a prompt or an answer, where ratings tell."""
    ratings = objects(get(rated, "safetyRatings"))
    return word(", ".join(word(one.get("category")) or "" for one in ratings if one.get("blocked") is True))


def citations_of(candidate: dict[str, Any]) -> list[Any] | None:
    """Where an answer is taken from: the passages that are cited, and the pages and files that it is grounded on."""
    cited = members(get(candidate, "citationMetadata"))
    grounds = members(get(candidate, "groundingMetadata"))
    found = [*objects(get(cited, "citationSources")), *objects(cited.get("citations"))]
    return [*found, *objects(get(grounds, "groundingChunks"))] or None


def logprobs_of(logprobs: Any) -> dict[str, Any] | None:
    """Log probabilities as OpenAI writes them."""
    chosen, tops = objects(get(logprobs, "chosenCandidates")), objects(get(logprobs, "topCandidates"))
    content = [one_logprob(token) for token in chosen]
    for entry, top in zip(content, tops, strict=False):
        entry["top_logprobs"] = [one_logprob(token) for token in objects(top.get("candidates"))]
    return {"content": content} if content else None


def one_logprob(token: dict[str, Any]) -> dict[str, Any]:
    return {"token": text_of(token.get("token")), "logprob": get(token, "logProbability")}


def read_usage(response: dict[str, Any], result: Result) -> None:
    """Prompt tokens hold the cached ones; thoughts, and what tools brought into the prompt, are counted apart."""
    usage = members(get(response, "usageMetadata"))
    asked, brought = whole(get(usage, "promptTokenCount")), whole(get(usage, "toolUsePromptTokenCount"))
    if asked is not None:
        # No prompt is empty: where 0 is told, nobody has counted.
        result.input_tokens = whole(asked + (brought or 0)) or None
        result.cached_tokens = whole(get(usage, "cachedContentTokenCount")) or 0
        # A zero is left out.
        result.output_tokens = 0
    written, thought = whole(get(usage, "candidatesTokenCount")), whole(get(usage, "thoughtsTokenCount"))
    if written is not None or thought is not None:
        result.output_tokens = whole((written or 0) + (thought or 0))
    result.reasoning_tokens = thought
    # Vertex tells it by the traffic: ON_DEMAND_FLEX.
    tier = word(get(usage, "serviceTier")) or (word(get(usage, "trafficType")) or "").removeprefix("ON_DEMAND")
    result.service_tier = tier.lower().lstrip("_") or None
    odd = {
        "audio_input_tokens": tokens_of("AUDIO", usage, "promptTokensDetails"),
        **{f"{kind.lower()}_output_tokens": tokens_of(kind, usage, "candidatesTokensDetails") for kind in APART},
    }
    result.tool_uses = {name: count for name, count in odd.items() if count > 0} or None


def tokens_of(modality: str, usage: Any, *places: str) -> int:
    """Tokens of one modality among all others."""
    kinds = [kind for where in places for kind in objects(get(usage, where)) if word(kind.get("modality")) == modality]
    return whole(sum(whole(get(kind, "tokenCount")) or 0 for kind in kinds)) or 0


def searches(candidates: list[dict[str, Any]], result: Result) -> None:
    """Searches that the vendor ran, and bills beside tokens."""
    found, asked, maps = False, 0, 0
    for candidate in candidates:
        grounds = members(get(candidate, "groundingMetadata"))
        queries, chunks = get(grounds, "webSearchQueries"), objects(get(grounds, "groundingChunks"))
        asked += len(queries) if isinstance(queries, list) else 0
        found = found or bool(queries) or any("web" in chunk for chunk in chunks)
        maps += any("maps" in chunk for chunk in chunks)
    if found and (result.model or "").startswith(BY_PROMPT):
        asked = 1
    uses = {**({"web_search": asked} if found else {}), **({"google_maps": maps} if maps else {})}
    if uses:
        result.tool_uses = {**(result.tool_uses or {}), **uses}


def vectors_in(response: dict[str, Any]) -> list[Any] | None:
    """The vectors of an embeddings answer; None for any other answer."""
    if "embedding" in response:
        return [response["embedding"]]
    found = response.get("embeddings")
    return found if isinstance(found, list) else None


def read_vectors(vectors: list[Any], result: Result) -> None:
    """Embeddings, one or several; where one of them holds no numbers the row is ``invalid``."""
    read = [vector_of(members(one).get("values", one if isinstance(one, list) else None)) for one in vectors]
    if not read or None in read:
        invalid(result, "bad_vector", "The answer holds a vector that cannot be read; it is in output as it came.")
        result.output = vectors
        return
    result.status, result.embedding = "succeeded", read[0] if len(read) == 1 else read


def read_embedding_usage(response: dict[str, Any], result: Result) -> None:
    """An embedding's tokens, which may stand beside it and not among ``usageMetadata``."""
    if result.input_tokens is None and (count := whole(get(response, "tokenCount"))) is not None:
        result.input_tokens, result.output_tokens = count, 0
    # The Developer API's EmbedContentResponse and Vertex AI's spell it each in its way.
    usage, spelled = members(get(response, "usageMetadata")), ("promptTokenDetails", "promptTokensDetails")
    odd = {f"{kind.lower()}_input_tokens": tokens_of(kind, usage, *spelled) for kind in APART}
    result.tool_uses = {name: count for name, count in odd.items() if count > 0} or None
