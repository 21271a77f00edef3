"""Completions and chat: from a checked request to a running generation, and from its pieces to one answer."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from attendant_engine.types import ModelInfo, SamplingParams
from attendant_server.errors import ServingError
from attendant_server.gateway import validation
from attendant_server.gateway.calls import ActiveCall
from attendant_server.gateway.generation import BegunOutput, Generation, GenerationPlan, OutputPiece
from attendant_server.gateway.prompts import EncodedPrompt, encode_prompts, param_at
from attendant_server.gateway.requests import ChatMessage, ChatRequest, CompletionRequest, Resume, SamplingFields
from attendant_server.gateway.results import CompletionChoice, CompletionResult, PositionLogprobs, Receipt
from attendant_server.gateway.resumption import ResumePoint, check_same, find_like, fingerprint, rebuild
from attendant_server.gateway.seeds import draw_seed
from attendant_server.gateway.served_model import ServedModel
from attendant_server.gateway.streams import CompletionStream
from attendant_server.gateway.toolbox import Toolbox
from attendant_server.logging import log_event

_log = logging.getLogger(__name__)


class Completions:
    """The two tasks that generate text from a prompt."""

    def __init__(self, toolbox: Toolbox) -> None:
        self._toolbox = toolbox

    async def complete(self, model: ServedModel, request: CompletionRequest | ChatRequest, call: ActiveCall) -> CompletionResult:
        """Generate the whole answer."""
        info = model.require_info()
        plan = await self._plan(model, info, request, call, streams=False)
        generation = self._start(model, plan, call)
        outputs: dict[tuple[int, int], list[OutputPiece]] = {}
        while pieces := await generation.next():
            for piece in pieces:
                outputs.setdefault((piece.prompt_idx, piece.index), []).append(piece)
            call.usage = generation.usage
        choices: list[CompletionChoice] = []
        for prompt_idx in range(len(plan.prompts)):
            chosen = _rank(generation.mean_logprobs(prompt_idx), request.n)
            choices += [_choice(outputs[prompt_idx, index], index=prompt_idx * request.n + place) for place, index in enumerate(chosen)]
        return CompletionResult(
            id=call.context.request_id,
            model=model.name,
            created_s=int(time.time()),
            choices=tuple(choices),
            usage=generation.usage,
            receipt=Receipt.of(generation.served_by or info, generation.seed),
            timing=generation.timing,
        )

    async def stream(
        self, model: ServedModel, request: CompletionRequest | ChatRequest, call: ActiveCall, resume: Resume | None = None
    ) -> CompletionStream:
        """Admit the request and return its pieces as they come, of a resumed one those that are left; the stream ends ``call``."""
        info = model.require_info()
        point = None if resume is None else ResumePoint.read(resume.token)
        served_by = None if point is None else find_like(model.replicas, point)
        plan = _with_seed(await self._plan(model, info, request, call, streams=True), point)
        num_tokens = sum(len(prompt.token_ids) for prompt in plan.prompts)
        # A few prompts are hashed sooner than handed to a thread.
        name = fingerprint(plan) if num_tokens <= 4096 else await self._toolbox.text_pool.run(call.deadline, fingerprint, plan)
        begun: dict[int, BegunOutput] = {}
        if resume is not None and point is not None:
            check_same(name, point)
            begun = await self._toolbox.text_pool.run(
                call.deadline, rebuild, plan, model.tokenizer, resume.outputs, vocab_size=info.vocab_size
            )
            self._toolbox.metrics.stream_resumed(model.name)
            log_event(_log, logging.INFO, "a stream goes on", model=model.name, num_tokens=sum(len(o.token_ids) for o in begun.values()))
        generation = Generation(
            plan,
            tokenizer=model.tokenizer,
            in_flight=self._toolbox.open_flight(model, call, served_by=served_by),
            request_ids=self._toolbox.request_ids,
            deadline=call.deadline,
            times=self._toolbox.metrics.token_times(model.name),
            begun=begun,
            cached_tokens=0 if point is None else point.cached_tokens,
        )
        generation.begin()
        return CompletionStream(generation, call, num_each=request.n, info=info, fingerprint=name)

    def _start(self, model: ServedModel, plan: GenerationPlan, call: ActiveCall) -> Generation:
        return Generation(
            plan,
            tokenizer=model.tokenizer,
            in_flight=self._toolbox.open_flight(model, call),
            request_ids=self._toolbox.request_ids,
            deadline=call.deadline,
            times=self._toolbox.metrics.token_times(model.name),
        )

    async def _plan(
        self, model: ServedModel, info: ModelInfo, request: CompletionRequest | ChatRequest, call: ActiveCall, *, streams: bool
    ) -> GenerationPlan:
        validation.check_task(info, model.name, "completion")
        num_each = validation.num_sequences_of(n=request.n, best_of=request.best_of, streams=streams)
        logit_bias = validation.parse_logit_bias(request.logit_bias, vocab_size=info.vocab_size)
        if request.stop_token_ids:
            validation.check_token_ids(request.stop_token_ids, vocab_size=info.vocab_size, param="stop_token_ids")
        if isinstance(request, ChatRequest):
            param, echo, num_prompt_top = "messages", False, None
            prompts = await self._chat_prompt(model, request, call)
        else:
            param, echo, num_prompt_top = "prompt", request.echo, request.prompt_logprobs
            prompts = await self._prompts(model, info, request, call, num_each)
        for idx, prompt in enumerate(prompts):
            validation.check_length(
                len(prompt.token_ids), info, param=param_at(param, idx, len(prompts)), generates=request.max_tokens != 0
            )
        max_tokens = info.max_model_len if request.max_tokens is None else min(request.max_tokens, info.max_model_len)
        prompt_tops = (num_prompt_top, request.logprobs if echo else None)
        return GenerationPlan(
            prompts=prompts,
            params=sampling_params(
                request,
                max_tokens=max_tokens,
                logit_bias=logit_bias,
                # Ranking needs every chosen token's log-probability, asked for or not.
                logprobs=request.logprobs if request.logprobs is not None or num_each == request.n else 0,
                prompt_logprobs=max((top for top in prompt_tops if top is not None), default=None),
            ),
            num_each=num_each,
            stop_texts=request.stop_texts,
            echo=echo,
            num_top=request.logprobs,
            num_prompt_top=num_prompt_top,
            priority=request.priority,
            cache_salt=cache_salt_of(call, request.cache_salt),
        )

    async def _prompts(
        self, model: ServedModel, info: ModelInfo, request: CompletionRequest, call: ActiveCall, num_each: int
    ) -> tuple[EncodedPrompt, ...]:
        prompts = request.prompts
        validation.check_num_sequences(len(prompts), num_each, what="prompts times best_of", param="prompt")
        return await self._toolbox.text_pool.run(
            call.deadline,
            encode_prompts,
            model.tokenizer,
            prompts,
            vocab_size=info.vocab_size,
            param="prompt",
            with_text=request.echo or request.prompt_logprobs is not None,
        )

    async def _chat_prompt(self, model: ServedModel, request: ChatRequest, call: ActiveCall) -> tuple[EncodedPrompt, ...]:
        return (await self._toolbox.text_pool.run_chat(call.deadline, encode_chat, model, request.messages),)


def encode_chat(
    model: ServedModel, messages: Sequence[ChatMessage], *, add_generation_prompt: bool = True, add_special_tokens: bool = False
) -> EncodedPrompt:
    """Return a conversation as the model's chat template writes it. Raises ``ServingError`` where there is none; may take long.

    ``add_special_tokens`` is for templates that leave out the model's marks; most write them.
    """
    if not model.tokenizer.has_chat_template:
        raise ServingError(
            "invalid_value",
            f"model '{model.name}' has no chat template, so it cannot read messages; use completions with a prompt instead",
            param="messages",
        )
    turns = [message.model_dump(exclude_none=True) for message in messages]
    text = model.tokenizer.render_chat(turns, add_generation_prompt=add_generation_prompt)
    token_ids = model.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
    if not token_ids:
        raise ServingError(
            "invalid_value", "the chat template made an empty prompt of these messages; say something in them", param="messages"
        )
    return EncodedPrompt(token_ids=token_ids)


def sampling_params(
    request: SamplingFields,
    *,
    max_tokens: int,
    logit_bias: tuple[tuple[int, float], ...],
    logprobs: int | None,
    prompt_logprobs: int | None,
) -> SamplingParams:
    """Return a request's fields in the engine's terms."""
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logit_bias=logit_bias,
        min_tokens=request.min_tokens,
        stop_token_ids=tuple(request.stop_token_ids),
        ignore_eos=request.ignore_eos,
        seed=request.seed,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    )


def cache_salt_of(call: ActiveCall, salt: str) -> str:
    """Keep tenants' prefix-cache entries apart, since a hit shows in the time it takes (CVE-2025-46570)."""
    tenant = call.context.tenant
    return f"{tenant}\0{salt}" if tenant else salt


def _with_seed(plan: GenerationPlan, point: ResumePoint | None) -> GenerationPlan:
    """Return the plan with a seed: its own, the one it was begun with, or a new one."""
    if plan.params.seed is not None:
        return plan
    return replace(plan, params=replace(plan.params, seed=draw_seed() if point is None else point.seed))


def _rank(mean_logprobs: Sequence[float], n: int) -> list[int]:
    """Return the indices of the n best outputs, best first; all of them in their own order when none is left out."""
    indices = list(range(len(mean_logprobs)))
    return indices if n == len(indices) else sorted(indices, key=lambda index: -mean_logprobs[index])[:n]


def _choice(pieces: Sequence[OutputPiece], *, index: int) -> CompletionChoice:
    last = pieces[-1].piece
    assert last.finish_reason is not None, "an output was put together before it had ended"
    return CompletionChoice(
        index=index,
        text="".join(each.piece.text for each in pieces),
        token_ids=tuple(token_id for each in pieces for token_id in each.piece.token_ids),
        finish_reason=last.finish_reason,
        stop_text=last.stop_text,
        stop_token_id=last.stop_token_id,
        logprobs=_joined([each.piece.logprobs for each in pieces]),
        prompt_logprobs=pieces[0].prompt_logprobs,
    )


def _joined(parts: Sequence[tuple[PositionLogprobs, ...] | None]) -> tuple[PositionLogprobs, ...] | None:
    return None if parts[0] is None else tuple(position for part in parts if part is not None for position in part)
