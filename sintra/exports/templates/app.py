"""A Gradio page for one GGUF, run by llama-cpp-python. Made by Sintra."""

import hashlib
import os
from pathlib import Path

import gradio as gr
from llama_cpp import GGML_TYPE_Q4_0, GGML_TYPE_Q8_0, Llama

MODEL = Path(__file__).with_name("model.gguf")
SHA256 = {{ digest }}
TITLE = {{ title }}
ABOUT = {{ about }}
CONTEXT = min({{ context }}, 4096)
KV = { "q8_0": GGML_TYPE_Q8_0, "q4_0": GGML_TYPE_Q4_0 }.get({{ kv }})
ANSWER = max(16, min(512, CONTEXT // 4))


def load():
    """The model, if it is the one that was measured."""
    with MODEL.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise SystemExit(f"model.gguf has the SHA-256 {found}, not {SHA256}")
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Llama(str(MODEL), n_ctx=CONTEXT, n_threads=threads, type_k=KV, type_v=KV, flash_attn=KV is not None, verbose=False)


llm = load()


def text_of(content):
    """A message's text; Gradio gives a string or a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    return "".join(p if isinstance(p, str) else p.get("text", "") for p in parts)


def fitting(messages):
    """The last messages that leave room for an answer, the newest one cut where it alone is too long."""
    room = CONTEXT - ANSWER - 16
    kept = []
    for message in reversed(messages):
        tokens = llm.tokenize(message["content"].encode(), add_bos=False)
        if len(tokens) + 8 > room and kept:
            break
        if len(tokens) + 8 > room:
            message = message | {"content": llm.detokenize(tokens[-(room - 8):]).decode(errors="ignore")}
        kept.append(message)
        room -= len(tokens) + 8
    return kept[::-1]


def answer(message, history):
    """The answer so far, again and again."""
    messages = [{"role": m["role"], "content": text_of(m["content"])} for m in history]
    messages.append({"role": "user", "content": text_of(message)})
    said = ""
    for part in llm.create_chat_completion(fitting(messages), max_tokens=ANSWER, stream=True):
        said += part["choices"][0]["delta"].get("content") or ""
        yield said


def go_on(prompt):
    """The text with what the model adds, again and again."""
    prompt = fitting([{"content": prompt}])[0]["content"]
    said = prompt
    for part in llm.create_completion(prompt, max_tokens=ANSWER, stream=True):
        said += part["choices"][0]["text"]
        yield said


if {{ chats }}:
    demo = gr.ChatInterface(answer, title=TITLE, description=ABOUT, concurrency_limit=1)
else:
    demo = gr.Interface(go_on, gr.Textbox(label="Text", lines=4), gr.Textbox(label="Text and what follows", lines=12),
                        title=TITLE, description=ABOUT, concurrency_limit=1, flagging_mode="never")

if __name__ == "__main__":
    demo.launch()
