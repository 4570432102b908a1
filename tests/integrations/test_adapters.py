"""LangChain and LlamaIndex over a real winner, each in a small retrieval chain."""

import asyncio
import hashlib
import math
import re
import shutil
from collections import Counter

import pytest

from sintra.core.errors import UserError
from sintra.integrations.adapters.answering import AnsweringModel

FACTS = [
    "Nora had seven plums in the kitchen.",
    "The old boat lay at the shore of the lake.",
    "Sven fixed the loud drum.",
]


def vector(text, size=256):
    """A text's words as a vector of length one: hashed counts."""
    counts = Counter(
        int(hashlib.sha256(w.encode()).hexdigest(), 16) % size
        for w in re.findall(r"\w+", text.lower())
    )
    length = math.sqrt(sum(v * v for v in counts.values())) or 1.0
    return [counts[i] / length for i in range(size)]


@pytest.fixture(scope="module")
def folder(studied):
    return studied.root / "outputs" / "latest"


@pytest.fixture(scope="module")
def digest(studied):
    return studied.result()["winner"]["artifact"]["sha256"]


@pytest.fixture(scope="module")
def chat(folder):
    from sintra.integrations.adapters.langchain import ChatSintra

    return ChatSintra(folder=str(folder), max_tokens=12, temperature=0.0)


@pytest.fixture(scope="module")
def llm(folder):
    from sintra.integrations.adapters.llamaindex import SintraLLM

    return SintraLLM(folder=str(folder), max_tokens=12, temperature=0.0)


class TestAnsweringModel:
    def test_template_context_and_stop(self, folder):
        model = AnsweringModel(folder)
        assert model.context_size == 512
        prompt = model.format_prompt(
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
        )
        assert prompt == "<|system|>Be brief.</s><|user|>Hi</s><|assistant|>"
        tokens = model.prompt_tokens(prompt)
        assert tokens[0] == model.llama.token_bos() != tokens[1]
        assert "</s>" in model.stop_texts(None)
        text, reason, used = model.answer(prompt, max_tokens=6, temperature=0.0)
        assert (reason, used.prompt) == ("length", len(tokens))
        assert text == "".join(
            t for t, _ in model.stream_answer(prompt, max_tokens=6, temperature=0.0)
        )

    def test_what_does_not_fit(self, folder):
        model = AnsweringModel(folder, context=32)
        with pytest.raises(UserError, match="raise context"):
            list(model.stream_answer("one two three " * 40))

    def test_another_file_is_refused(self, folder, tmp_path):
        shutil.copytree(folder, tmp_path / "copy", symlinks=False)
        path = tmp_path / "copy" / "model.gguf"
        path.chmod(0o644)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(UserError, match="isn't the winner any more"):
            _ = AnsweringModel(tmp_path / "copy").llama
        with pytest.raises(UserError, match="outputs/latest"):
            _ = AnsweringModel(tmp_path).provenance


class TestLangChain:
    def test_invoke_stream_and_async_agree(self, chat, digest):
        answer = chat.invoke([("system", "Be brief."), ("human", "Hi")])
        assert answer.response_metadata["sha256"] == digest
        assert answer.response_metadata["finish_reason"] == "length"
        assert answer.usage_metadata["input_tokens"] > 3
        pieces = list(chat.stream([("system", "Be brief."), ("human", "Hi")]))
        assert len(pieces) > 3
        whole = pieces[0]
        for piece in pieces[1:]:
            whole += piece
        assert whole.content == answer.content
        assert whole.usage_metadata == answer.usage_metadata
        assert whole.response_metadata == answer.response_metadata

        async def both():
            one = await chat.ainvoke([("system", "Be brief."), ("human", "Hi")])
            return one.content, "".join(
                [p.content async for p in chat.astream([("system", "Be brief."), ("human", "Hi")])]
            )

        assert asyncio.run(both()) == (answer.content, answer.content)

    def test_the_event_loop_goes_on(self, chat):
        async def work():
            ticks = 0

            async def tick():
                nonlocal ticks
                while True:
                    ticks += 1
                    await asyncio.sleep(0)

            beside = asyncio.create_task(tick())
            _ = [p async for p in chat.astream("Hi")]
            beside.cancel()
            return ticks

        assert asyncio.run(work()) > 20

    def test_stop_options_and_mistakes(self, chat):
        from langchain_core.messages import ToolMessage

        whole = chat.invoke("Hi").content
        cut = chat.invoke("Hi", stop=[whole[3:6]])
        assert cut.content == whole[: whole.index(whole[3:6])]
        assert cut.response_metadata["finish_reason"] == "stop"
        assert len(chat.invoke("Hi", max_tokens=3).content) < len(whole)
        with pytest.raises(UserError, match="has no 'tools'"):
            chat.invoke("Hi", tools=[])
        with pytest.raises(UserError, match="system, human and ai"):
            chat.invoke([ToolMessage("x", tool_call_id="1")])
        assert chat._get_ls_params(model="other")["ls_model_name"] == "other"
        assert chat.get_num_tokens("Nora had plums") > 2

    def test_a_retrieval_chain(self, chat):
        from langchain_core.embeddings import Embeddings
        from langchain_core.output_parsers import StrOutputParser
        from langchain_core.prompts import ChatPromptTemplate
        from langchain_core.runnables import RunnablePassthrough
        from langchain_core.vectorstores import InMemoryVectorStore

        class Words(Embeddings):
            def embed_documents(self, texts):
                return [vector(t) for t in texts]

            def embed_query(self, text):
                return vector(text)

        seen = []
        store = InMemoryVectorStore.from_texts(FACTS, Words())
        prompt = ChatPromptTemplate([("system", "Facts: {facts}"), ("human", "{question}")])
        found = store.as_retriever(search_kwargs={"k": 1}) | (lambda docs: docs[0].page_content)
        chain = (
            {"facts": found, "question": RunnablePassthrough()}
            | prompt
            | (lambda p: seen.append(p) or p)
            | chat
        )
        text = (chain | StrOutputParser()).invoke("How many plums had Nora?")
        assert FACTS[0] in seen[0].messages[0].content
        assert text == chat.invoke(seen[0]).content


class TestLlamaIndex:
    def test_metadata(self, llm):
        assert (
            llm.metadata.context_window,
            llm.metadata.num_output,
            llm.metadata.is_chat_model,
        ) == (512, 12, True)
        assert llm.metadata.model_name.startswith("tiny:")
        assert llm.class_name() == "SintraLLM"
        assert "folder=" in repr(llm)
        assert '"max_tokens": 12' in llm.to_json()

    def test_all_ways_agree(self, llm, digest):
        from llama_index.core.llms import ChatMessage

        whole = llm.complete("Hi")
        assert whole.raw["sha256"] == digest
        assert whole.raw["finish_reason"] == "length"
        pieces = list(llm.stream_complete("Hi"))
        assert pieces[-1].text == "".join(p.delta for p in pieces) == whole.text
        chat = llm.chat([ChatMessage("Hi")])
        assert chat.message.content == whole.text, (
            "a prompt is a user's message, through the template once"
        )
        assert chat.message.role.value == "assistant"

        async def others():
            one = (await llm.acomplete("Hi")).text
            two = (await llm.achat([ChatMessage("Hi")])).message.content
            three = "".join([p.delta async for p in await llm.astream_complete("Hi")])
            four = "".join([p.delta async for p in await llm.astream_chat([ChatMessage("Hi")])])
            return [one, two, three, four]

        assert asyncio.run(others()) == [whole.text] * 4

    def test_a_retrieval_chain(self, folder):
        from llama_index.core import VectorStoreIndex
        from llama_index.core.base.embeddings.base import BaseEmbedding
        from llama_index.core.prompts import PromptTemplate
        from llama_index.core.schema import TextNode

        class Words(BaseEmbedding):
            def _get_text_embedding(self, text):
                return vector(text)

            def _get_query_embedding(self, query):
                return vector(query)

            async def _aget_query_embedding(self, query):
                return vector(query)

        from sintra.integrations.adapters.llamaindex import SintraLLM

        llm = SintraLLM(
            folder=str(folder), max_tokens=12, temperature=0.0, context=1024
        )  # LlamaIndex itself leaves 500 free
        index = VectorStoreIndex([TextNode(text=t) for t in FACTS], embed_model=Words())
        brief = PromptTemplate("Facts: {context_str}\nQuestion: {query_str}\nAnswer: ")
        again = PromptTemplate(
            "Facts: {context_msg}\nQuestion: {query_str}\nAnswer so far: {existing_answer}"
        )
        engine = index.as_query_engine(
            llm=llm, similarity_top_k=1, text_qa_template=brief, refine_template=again
        )
        answer = engine.query("How many plums had Nora?")
        assert [n.node.text for n in answer.source_nodes] == [FACTS[0]]
        asked = f"Facts: {FACTS[0]}\nQuestion: How many plums had Nora?\nAnswer: "
        assert answer.response == llm.complete(asked).text
