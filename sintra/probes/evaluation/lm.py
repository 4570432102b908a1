"""Give lm-eval a GGUF as its language model: llama.cpp in this process, without a server.

Tokens, truncation and the token before an empty context are those of lm-eval's transformers model
(HFLM), so that the same task gives the same number of right answers through both: special tokens in
the text are parsed, begin of text comes first where the vocabulary says so, and what is too long is
cut on the left. One difference is known: a text that begins with a space, with nothing before it,
gets SentencePiece's own extra space here, as in llama.cpp, and none from transformers' fast
tokenizers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from sintra.core import lazy
from sintra.core.errors import Infeasible
from sintra.formats.chat.renderer import TemplateFailed
from sintra.formats.gguf.chat_template import ChatTemplate, Message
from sintra.formats.runtime.llama_cpp import LlamaModel, log_softmax

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")

Pair = tuple[Any, list[int], list[int]]  # the request, tokens of its context and continuation


class LlamaLM(TemplateLM):  # type: ignore[misc]
    """What lm-eval asks for, over an open model.

    Positions that two requests share are computed once.
    """

    model: LlamaModel
    say: Callable[[str], None]  # takes lines of progress
    template: ChatTemplate | None
    max_length: int  # context, tokens
    cached: list[int]  # tokens in the model's KV cache

    def __init__(
        self,
        model: LlamaModel,
        say: Callable[[str], None] = lambda text: None,
        template: ChatTemplate | None = None,
    ) -> None:
        super().__init__()
        self.model, self.say, self.template = model, say, template
        self.max_length = model.context
        self.cached = []

    @property
    def eot_token_id(self) -> int:
        """Return the token for end of text."""
        return self.model.eos

    @property
    def prefix_token_id(self) -> int:
        """Return the token before a text without context."""
        return self.model.bos if self.model.adds_bos else self.model.eos

    @property
    def tokenizer_name(self) -> str:
        """Return the name by which lm-eval would tell stored prompts apart; ours are not stored."""
        return "gguf"

    def apply_chat_template(
        self, chat_history: list[Message], add_generation_prompt: bool = True
    ) -> str:
        """Return a conversation as text.

        Its system message is left out where the template takes none, as HFLM does. Raises
        Infeasible where the template doesn't take it then either.
        """
        assert self.template
        try:
            return self.template.render(chat_history, add_generation_prompt)
        except TemplateFailed:
            rest = [m for m in chat_history if m["role"] != "system"]
        try:
            return self.template.render(rest, add_generation_prompt)
        except TemplateFailed as error:
            raise Infeasible(
                "refused",
                f"the chat template doesn't take the task's questions ({error}): leave "
                "probe.task_chat=true out",
            ) from None

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Return token ids.

        Begin of text comes first where the vocabulary says so, unless it is there already or
        add_special_tokens is False.
        """
        if add_special_tokens is False:
            ids: list[int] = self.model.tokenize(string, special=True).tolist()
            return ids
        return self.model.encode(string)

    def _loglikelihood_tokens(self, requests: list[Pair], **_: Any) -> list[tuple[float, bool]]:
        likelihoods = []
        for number, (_request, context, continuation) in enumerate(requests, 1):
            likelihoods.append(self.likelihood(context, continuation))
            if number % 100 == 0 or number == len(requests):
                self.say(f"request {number} of {len(requests)}")
        return likelihoods

    def likelihood(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        """Return a continuation's log-probability in nats, and whether greedy decoding gives it."""
        ids = (context + continuation)[-(self.max_length + 1) :][:-1]
        targets = np.array(continuation[-len(ids) :])
        logp = log_softmax(self.logits(ids, len(ids) - len(targets)))
        likelihood = float(logp[np.arange(len(targets)), targets].sum())
        return likelihood, bool((logp.argmax(1) == targets).all())

    def logits(self, ids: list[int], first: int) -> NDArray[np.float32]:
        """Return the logits after positions first..end, (positions, vocabulary).

        The KV cache keeps what the last call computed of the same beginning.
        """
        same = next(
            (i for i, (a, b) in enumerate(zip(self.cached, ids, strict=False)) if a != b),
            min(len(self.cached), len(ids)),
        )
        start = min(same, first)
        if not (start and self.model.truncate(start)):
            self.model.clear()
            start = 0
        self.cached = list(ids)
        return self.model.logits(np.array(ids[start:], np.int32), start, first - start)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability in nats of whole texts, window after window."""
        likelihoods = []
        for text in (r.args[0] for r in requests):
            ids = self.tok_encode(text)
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1)
            likelihoods.append(sum(self.likelihood(*make_disjoint_window(w))[0] for w in windows))
            self.say(f"text {len(likelihoods)} of {len(requests)}")
        return likelihoods

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Return greedy answers. Raises Infeasible for a task that needs them drawn at random."""
        answers = []
        for context, options in (r.args for r in requests):
            settings = normalize_gen_kwargs(options, 256)
            if settings["do_sample"]:
                raise Infeasible(
                    "refused",
                    "the task asks for sampled answers, which differ from run to run: "
                    "do_sample: false",
                )
            stops = handle_stop_sequences(settings.get("until"), None)
            answers.append(self.answer(context, stops, settings["max_gen_toks"]))
            self.say(f"answer {len(answers)} of {len(requests)}")
        return answers

    def answer(self, context: str, until: list[str], most: int) -> str:
        """Return the text that greedy decoding gives after a context.

        It ends at one of `until`, end of text or `most` tokens. Raises Infeasible where so many
        tokens do not fit.
        """
        if most >= self.max_length:
            raise Infeasible(
                "refused",
                f"{most} tokens to generate don't fit into a context of {self.max_length}",
            )
        ids, text = self.tok_encode(context)[-(self.max_length - most) :], ""
        generated: list[int] = []
        while len(generated) < most and not any(stop and stop in text for stop in until):
            sequence = ids + generated
            token = int(self.logits(sequence, len(sequence) - 1)[-1].argmax())
            if self.model.is_end(token):
                break
            generated.append(token)
            text = self.model.detokenize(generated)
        return str(postprocess_generated_text(text, until, None))
