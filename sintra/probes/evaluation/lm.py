"""A GGUF as lm-eval's language model: llama.cpp in this process, batch after batch, without a
server.

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
from sintra.formats.gguf.chat_template import ChatTemplate
from sintra.formats.runtime.llama_cpp import LlamaModel, log_softmax

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")

Pair = tuple[Any, list[int], list[int]]


class LlamaLM(TemplateLM):  # type: ignore[misc]
    """What lm-eval asks for, over an opened model. Positions that two requests share are computed
    once.
    """

    def __init__(
        self,
        model: LlamaModel,
        say: Callable[[str], None] = lambda text: None,
        template: ChatTemplate | None = None,
    ) -> None:
        super().__init__()
        self.model, self.say, self.template = model, say, template
        self.max_length = model.context
        self.held: list[int] = []

    @property
    def eot_token_id(self) -> int:
        """End of text."""
        return self.model.eos

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context."""
        return self.model.bos if self.model.adds_bos else self.model.eos

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval would tell prompts apart by if it kept them; ours are not kept."""
        return "gguf"

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as text; without its system message where the template takes none, as HFLM
        does.
        """
        from jinja2.exceptions import TemplateError

        assert self.template
        try:
            return self.template.render(chat_history, add_generation_prompt)
        except TemplateError:
            rest = [m for m in chat_history if m["role"] != "system"]
            return self.template.render(rest, add_generation_prompt)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids; begin of text first where the vocabulary says so, unless it is there or not
        wanted.
        """
        if add_special_tokens is False:
            ids: list[int] = self.model.tokenize(string, special=True).tolist()
            return ids
        return self.model.encode(string)

    def _loglikelihood_tokens(self, requests: list[Pair], **_: Any) -> list[tuple[float, bool]]:
        found = []
        for number, (_request, context, continuation) in enumerate(requests, 1):
            found.append(self.likelihood(context, continuation))
            if number % 100 == 0 or number == len(requests):
                self.say(f"request {number} of {len(requests)}")
        return found

    def likelihood(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        """Log-probability in nats of a continuation, and whether greedy decoding would say it."""
        read = (context + continuation)[-(self.max_length + 1) :][:-1]
        said = np.array(continuation[-len(read) :])
        logp = log_softmax(self.logits(read, len(read) - len(said)))
        return float(logp[np.arange(len(said)), said].sum()), bool((logp.argmax(1) == said).all())

    def logits(self, ids: list[int], first: int) -> NDArray[np.float32]:
        """Logits after positions first..end, (positions, vocabulary); what the last call left of
        the same beginning is kept.
        """
        same = next(
            (i for i, (a, b) in enumerate(zip(self.held, ids, strict=False)) if a != b),
            min(len(self.held), len(ids)),
        )
        keep = min(same, first)
        if not (keep and self.model.truncate(keep)):
            self.model.clear()
            keep = 0
        self.held = list(ids)
        return self.model.logits(np.array(ids[keep:], np.int32), keep, first - keep)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability in nats of whole texts, window after window."""
        found = []
        for text in (r.args[0] for r in requests):
            ids = self.tok_encode(text)
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1)
            found.append(sum(self.likelihood(*make_disjoint_window(w))[0] for w in windows))
            self.say(f"text {len(found)} of {len(requests)}")
        return found

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers. Raises Infeasible for a task that wants them drawn at random."""
        found = []
        for context, options in (r.args for r in requests):
            asked = normalize_gen_kwargs(options, 256)
            if asked["do_sample"]:
                raise Infeasible(
                    "refused",
                    (
                        "the task asks for sampled answers, which differ from run to run: "
                        "do_sample: false"
                    ),
                )
            found.append(
                self.answer(
                    context, handle_stop_sequences(asked.get("until"), None), asked["max_gen_toks"]
                )
            )
            self.say(f"answer {len(found)} of {len(requests)}")
        return found

    def answer(self, context: str, until: list[str], most: int) -> str:
        """The text that greedy decoding says after a context, up to a stop, end of text or `most`
        tokens.
        """
        if most >= self.max_length:
            raise Infeasible(
                "refused",
                f"{most} tokens to generate don't fit into a context of {self.max_length}",
            )
        ids, text = self.tok_encode(context)[-(self.max_length - most) :], ""
        said: list[int] = []
        while len(said) < most and not any(stop and stop in text for stop in until):
            token = int(self.logits(ids + said, len(ids) + len(said) - 1)[-1].argmax())
            if self.model.is_end(token):
                break
            said.append(token)
            text = self.model.detokenize(said)
        return str(postprocess_generated_text(text, until, None))
