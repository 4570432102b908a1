"""config.json of well-known models."""

import numpy as np

from sintra.hardware.estimate import architecture
from sintra.hardware.estimate.estimate import Shape

LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_hidden_layers": 16,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    "vocab_size": 64,
    "tie_word_embeddings": False,
}


NAMES = {"norm": ("attn_norm", "ffn_norm")}


def write(path, config, tokens=False):
    """A GGUF of a Llama with these sizes, the weights random."""
    import gguf

    of = architecture.architecture_of(config)
    writer, random = gguf.GGUFWriter(path, "llama"), np.random.default_rng(0)
    writer.add_block_count(of.layers)
    writer.add_context_length(512)
    writer.add_embedding_length(of.width)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(of.heads)
    writer.add_head_count_kv(of.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(of.vocabulary)
    if tokens:
        vocabulary = [b"<unk>", b"<s>", b"</s>", *(f"<0x{i:02X}>".encode() for i in range(256))]
        vocabulary += [f"t{i}".encode() for i in range(of.vocabulary - len(vocabulary))]
        writer.add_tokenizer_model("llama")
        writer.add_token_list(vocabulary)
        writer.add_token_scores([0.0] * of.vocabulary)
        writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * (of.vocabulary - 259)])
    seen = {}
    for tensor in of.tensors:
        kind, place = tensor.kind, f"blk.{tensor.block}." if tensor.block is not None else ""
        if kind == "norm":
            seen[tensor.block] = seen.get(tensor.block, -1) + 1
            kind = NAMES[kind][seen[tensor.block]]
        shape = (
            (tensor.count // tensor.columns, tensor.columns) if tensor.matrix else (tensor.columns,)
        )
        data = random.normal(size=shape).astype(np.float16 if tensor.matrix else np.float32)
        writer.add_tensor(f"{place}{kind}.weight", data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


GIB, MIB = 2**30, 2**20


LLAMA3_8B = Shape(
    int(4.58 * GIB), int(128256 * 4096 * 0.5625), False, 8_030_000_000, 32, 4096, 32, 8, 128, 128256
)
