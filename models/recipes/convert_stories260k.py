"""Convert llama2.c's stories260K into a Hugging Face layout: ``python convert_stories260k.py SOURCE DESTINATION``.

SOURCE has ``stories260K.bin`` (legacy float32 export) and ``tok512.bin``. Formats: karpathy/llama2.c, ``export.py`` (version 0)
and ``tokenizer.py``. Same input, same bytes out.
"""

import argparse
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing

Matrix = NDArray[np.float32]

SPACE = "\u2581"
UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
NORM_EPS = 1e-5
ROPE_THETA = 10000.0


def read_header(file: bytes) -> dict[str, int]:
    """Return the seven sizes that open the file. A negative vocabulary would mean a head of its own; this one is tied."""
    names = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")
    return dict(zip(names, struct.unpack("<7i", file[:28]), strict=True))


def to_rotate_half(weight: Matrix, num_heads: int) -> Matrix:
    """Reorder the rows of a query or key product from neighbouring rotary pairs to pairs half a head apart."""
    rows, columns = weight.shape
    pairs = weight.reshape(num_heads, rows // num_heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.transpose(0, 2, 1, 3).reshape(rows, columns))


def read_tensors(file: bytes, sizes: dict[str, int]) -> dict[str, Matrix]:
    """Return every tensor under its Hugging Face name."""
    dim, hidden, layers = sizes["dim"], sizes["hidden_dim"], sizes["n_layers"]
    kv_dim = dim // sizes["n_heads"] * sizes["n_kv_heads"]
    numbers = np.frombuffer(file, dtype="<f4", offset=28)
    position = 0

    def take(*shape: int) -> Matrix:
        nonlocal position
        count = int(np.prod(shape))
        position += count
        return numbers[position - count : position].reshape(shape).astype(np.float32)

    tensors = {"model.embed_tokens.weight": take(sizes["vocab_size"], dim)}
    stacks = (
        ("input_layernorm", take(layers, dim)),
        ("self_attn.q_proj", take(layers, dim, dim)),
        ("self_attn.k_proj", take(layers, kv_dim, dim)),
        ("self_attn.v_proj", take(layers, kv_dim, dim)),
        ("self_attn.o_proj", take(layers, dim, dim)),
        ("post_attention_layernorm", take(layers, dim)),
        ("mlp.gate_proj", take(layers, hidden, dim)),
        ("mlp.down_proj", take(layers, dim, hidden)),
        ("mlp.up_proj", take(layers, hidden, dim)),
    )
    heads = {"self_attn.q_proj": sizes["n_heads"], "self_attn.k_proj": sizes["n_kv_heads"]}
    for name, stack in stacks:
        for layer, weight in enumerate(stack):
            tensors[f"model.layers.{layer}.{name}.weight"] = to_rotate_half(weight, heads[name]) if name in heads else weight
    tensors["model.norm.weight"] = take(dim)
    return tensors


def read_pieces(file: bytes) -> Iterator[tuple[str, float]]:
    """Yield each piece and its score, in the order of their ids."""
    position = 4
    while position < len(file):
        score, length = struct.unpack_from("<fi", file, position)
        position += 8 + length
        yield file[position - length : position].decode("utf-8"), score


def make_tokenizer(pieces: list[tuple[str, float]]) -> Tokenizer:
    """Return a byte-fallback BPE whose merges are all the splits of each piece, best score first, as SentencePiece merges."""
    specials = (UNKNOWN, BEGIN, END)
    num_reserved = len(specials) + 256
    written = [*specials, *(f"<0x{byte:02X}>" for byte in range(256))]
    written += [piece.replace(" ", SPACE) for piece, _ in pieces[num_reserved:]]
    vocabulary = {piece: token_id for token_id, piece in enumerate(written)}
    merges: list[tuple[float, int, int, str, str]] = []
    for token_id in range(num_reserved, len(written)):
        piece = written[token_id]
        for middle in range(1, len(piece)):
            left, right = piece[:middle], piece[middle:]
            if left in vocabulary and right in vocabulary:
                merges.append((-pieces[token_id][1], vocabulary[left], vocabulary[right], left, right))
    merges.sort()
    tokenizer = Tokenizer(BPE(vocabulary, [merge[3:] for merge in merges], unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN}:1 $B:1", special_tokens=[(BEGIN, vocabulary[BEGIN])]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return tokenizer


def convert(source: Path, destination: Path) -> None:
    """Write the converted checkpoint; the card and the licence beside it are written by hand."""
    file = (source / "stories260K.bin").read_bytes()
    sizes = read_header(file)
    destination.mkdir(parents=True, exist_ok=True)
    save_file(read_tensors(file, sizes), destination / "model.safetensors", metadata={"format": "pt"})
    make_tokenizer(list(read_pieces((source / "tok512.bin").read_bytes()))).save(str(destination / "tokenizer.json"))
    write_json(
        destination / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": sizes["vocab_size"],
            "hidden_size": sizes["dim"],
            "intermediate_size": sizes["hidden_dim"],
            "num_hidden_layers": sizes["n_layers"],
            "num_attention_heads": sizes["n_heads"],
            "num_key_value_heads": sizes["n_kv_heads"],
            "max_position_embeddings": sizes["seq_len"],
            "hidden_act": "silu",
            "rms_norm_eps": NORM_EPS,
            "rope_theta": ROPE_THETA,
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": "float32",
        },
    )
    # The stories were trained end to end with only a begin token between them, so that one ends a story too.
    write_json(destination / "generation_config.json", {"bos_token_id": 1, "eos_token_id": [1, 2]})
    write_json(
        destination / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BEGIN,
            "eos_token": END,
            "unk_token": UNKNOWN,
            "model_max_length": sizes["seq_len"],
            "clean_up_tokenization_spaces": False,
        },
    )


def write_json(path: Path, value: object) -> None:
    """Write indented JSON with a final newline."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("destination", type=Path)
    arguments = parser.parse_args()
    convert(arguments.source, arguments.destination)
