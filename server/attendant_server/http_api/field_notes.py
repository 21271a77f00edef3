"""What the fields of the bodies mean, for the OpenAPI document; the comments of the ``.proto`` files say the same.

A name stands for every body that has the field; ``Body.name`` is about one of them and wins.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

FIELD_NOTES: Mapping[str, str] = MappingProxyType(
    {
        "model": "Name of a served model or adapter.",
        "LoadModelBody.model": "The name that requests are to use.",
        "directory": "Its directory below the server's `--model-directory`. Default: that of the model's own name.",
        "prompt": "What to continue: a text, token ids, or a list of either, each answered on its own.",
        "messages": "The conversation so far; the model's own chat template writes the prompt.",
        "input": "A text, token ids, or a list of either.",
        "ClassifyBody.input": "A text or a list of texts.",
        "pairs": "Pairs of texts that are read together, instead of `input`.",
        "max_tokens": "Most tokens to generate.",
        "ChatBody.max_tokens": "Most tokens to generate. Default: up to the model's context.",
        "temperature": "0 takes the most probable token each time; higher is more varied.",
        "top_p": "Draw from the smallest set of tokens whose probability reaches this; 1 is off.",
        "top_k": "Draw from this many most probable tokens; 0 is off.",
        "min_p": "Draw from tokens at least this fraction as probable as the best one; 0 is off.",
        "repetition_penalty": "Divides (negative: multiplies) logits of tokens seen in prompt or output; 1 is off.",
        "presence_penalty": "Subtracted once from logits of tokens in the output.",
        "frequency_penalty": "Subtracted from logits of tokens in the output, each time they occur.",
        "logit_bias": "Added to the logit of a token id, -100 to 100.",
        "min_tokens": "No end of sequence and no stop token before this many tokens.",
        "stop": "Texts that end the output, 16 at most; what is returned stops before them.",
        "stop_token_ids": "Token ids that end the output.",
        "ignore_eos": "Go on past the model's end-of-sequence token.",
        "seed": "Fixes the draws: the same seed gives the same tokens in any batch. Default: picked, and returned in the receipt.",
        "n": "Independent outputs a prompt.",
        "best_of": "Outputs generated, of which the `n` most probable are returned; not for streams. Default: `n`.",
        "priority": "Lower is served first.",
        "cache_salt": "Keeps this caller's prefix-cache entries apart from those of others.",
        "echo": "Put the prompt before the completion in the text.",
        "logprobs": "Return the log-probability of each token and of this many best ones.",
        "ChatBody.logprobs": "Return the log-probability of each token.",
        "prompt_logprobs": "The same for the prompt's tokens.",
        "stream_options": "What a stream reports beside its text; only with `stream`.",
        "response_format": "Plain text is the only one.",
        "store": "Ignored: nothing is stored.",
        "service_tier": "Ignored.",
        "dimensions": "Keep only this many leading numbers. Default: all.",
        "pooling": "How token vectors become one. Default: the model's own way.",
        "normalize": "Scale vectors to length one. Default: as the model says.",
        "encoding_format": "Numbers, or base64 of little-endian float32.",
        "multi_label": "Judge each label on its own instead of all against each other. Default: as the model says.",
        "instruction": "What to do; put before the examples.",
        "examples": "Worked examples, none, one or many.",
        "queries": "What to answer, each on its own.",
        "labels": "The possible answers, each scored by its whole token sequence. Without them an answer is generated.",
        "template": "How an example is written. Default: `Input: {input}` and `Output: {output}` on a line each; {reasoning} if you like.",
        "calibrate": "Divide each label's probability by what the model gives it for a query without content (Zhao et al. 2021).",
        "tokens": "Token ids of the model's vocabulary.",
        "TokenizeBody.prompt": "The text to read.",
        "TokenizeBody.messages": "A conversation to read, instead of `prompt`.",
        "TokenizeBody.model": "Name of a served model. Default: the first one.",
        "DetokenizeBody.model": "Name of a served model. Default: the first one.",
        "MessageBody.role": "Who speaks: system, user, assistant, or whatever the template knows.",
        "MessageBody.content": "What is said.",
        "MessageBody.name": "Name of the speaker, for templates that use it.",
        "MessageBody.type": "Ignored.",
        "TextPart.text": "The text.",
        "TextPart.type": "Text is the only kind.",
        "TextFormat.type": "Text is the only kind.",
        "FewShotExample.input": "The question.",
        "FewShotExample.output": "Its answer.",
        "FewShotExample.reasoning": "The thoughts between them, for chain of thought.",
    }
)


def describe_fields(schemas: Mapping[str, dict[str, Any]]) -> None:
    """Give every property of ``schemas`` (by name) that has no description of its own the one from here."""
    for schema_name, schema in schemas.items():
        for name, field in schema.get("properties", {}).items():
            note = FIELD_NOTES.get(f"{schema_name}.{name}", FIELD_NOTES.get(name))
            if note is not None and "description" not in field:
                field["description"] = note
