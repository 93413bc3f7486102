"""Small real GGUF files with random weights, written with the `gguf` package: an encoder with or without a
reranking head, LoRA adapters, a vision projector."""

from pathlib import Path

import gguf
import numpy as np

#: WordPiece vocabulary of `bert`: whole words begin with U+2581 in a GGUF file, continuations with nothing.
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["▁the", "▁cat", "▁dog", "▁sat", "▁on", "▁mat", "▁run", "ning", "s", "▁a", "▁red", "▁blue", "?", "▁?", "▁who"]
PAD, UNK, CLS, SEP, MASK = range(5)

LAYERS, WIDTH, HEADS, INNER, POSITIONS = 2, 32, 4, 64, 600


def _write(writer: gguf.GGUFWriter, tensors: dict[str, np.ndarray]) -> None:
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def bert(path: Path, pooling: str = "mean", seed: int = 0) -> dict[str, np.ndarray]:
    """A BERT of 2 layers at ``path``; with ``pooling`` ``rank`` it has a classification head. Returns its weights,
    float32, each matrix as [outputs, inputs]."""
    random = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 0.3) -> np.ndarray:
        return (random.standard_normal(shape) * scale).astype(np.float32)

    def linear(name: str, outputs: int, inputs: int) -> dict[str, np.ndarray]:
        return {f"{name}.weight": normal(outputs, inputs), f"{name}.bias": normal(outputs)}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {f"{name}.weight": 1 + normal(WIDTH), f"{name}.bias": normal(WIDTH)}

    tokens = SPECIAL + WORDS
    weights = {
        "token_embd.weight": normal(len(tokens), WIDTH, scale=1),
        "token_types.weight": normal(2, WIDTH),
        "position_embd.weight": normal(POSITIONS, WIDTH),
        **norm("token_embd_norm"),
    }
    for i in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            weights |= linear(f"blk.{i}.{name}", WIDTH, WIDTH)
        weights |= norm(f"blk.{i}.attn_output_norm") | norm(f"blk.{i}.layer_output_norm")
        weights |= linear(f"blk.{i}.ffn_up", INNER, WIDTH) | linear(f"blk.{i}.ffn_down", WIDTH, INNER)
    if pooling == "rank":
        weights |= linear("cls", WIDTH, WIDTH) | linear("cls.output", 1, WIDTH)
    write_bert(path, weights, tokens, pooling, heads=HEADS)
    return weights


def write_bert(path: Path, weights: dict[str, np.ndarray], tokens: list[str], pooling: str, heads: int) -> None:
    """A GGUF file of a BERT: ``weights`` by llama.cpp's names, ``tokens`` in its spelling; the special ones are in
    brackets."""
    positions, width = weights["position_embd.weight"].shape
    layers = sum(name.endswith("ffn_up.weight") for name in weights)
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_block_count(layers)
    writer.add_context_length(positions)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(weights["blk.0.ffn_up.weight"].shape[0])
    writer.add_head_count(heads)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType[pooling.upper()])
    writer.add_token_type_count(len(weights["token_types.weight"]))
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    kinds = {"[UNK]": gguf.TokenType.UNKNOWN}
    control = {"[PAD]", "[CLS]", "[SEP]", "[MASK]"}
    writer.add_token_types(
        [gguf.TokenType.CONTROL if t in control else kinds.get(t, gguf.TokenType.NORMAL) for t in tokens]
    )
    writer.add_bos_token_id(tokens.index("[CLS]"))
    writer.add_unk_token_id(tokens.index("[UNK]"))
    writer.add_sep_token_id(tokens.index("[SEP]"))
    writer.add_pad_token_id(tokens.index("[PAD]"))
    writer.add_mask_token_id(tokens.index("[MASK]"))
    if pooling == "rank":
        # A cross-encoder reads "[CLS] query [SEP] document [SEP]"; its EOS is its separator.
        writer.add_eos_token_id(tokens.index("[SEP]"))
        writer.add_add_eos_token(True)
        writer.add_add_sep_token(False)
    _write(writer, weights)


def lora(
    path: Path,
    architecture: str,
    shapes: dict[str, tuple[int, int]],
    *,
    scale: float = 1.0,
    alpha: float = 8.0,
    rank: int = 4,
    seed: int = 0,
    **metadata: str,
) -> None:
    """A LoRA adapter for the matrices of ``shapes``, each [outputs, inputs]. ``scale`` is the standard deviation of B,
    so that 0 changes nothing. ``metadata``: values of ``adapter.lora.NAME``."""
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, value in metadata.items():
        writer.add_string(f"adapter.lora.{name}", value)
    tensors: dict[str, np.ndarray] = {}
    for name, (outputs, inputs) in shapes.items():
        tensors[f"{name}.lora_a"] = (random.standard_normal((rank, inputs)) / inputs**0.5).astype(np.float32)
        tensors[f"{name}.lora_b"] = (random.standard_normal((outputs, rank)) * scale).astype(np.float32)
    _write(writer, tensors)


def projector(path: Path, width: int, *, patch: int = 8, side: int = 64, merge: int = 2, seed: int = 0) -> int:
    """A SigLIP encoder of one layer and Gemma 3's projector into embeddings of ``width``; images are ``side`` pixels
    square. Returns how many tokens an image becomes."""
    random = np.random.default_rng(seed)
    inner, heads, feed = 32, 4, 64

    def normal(*shape: int, scale: float = 0.3) -> np.ndarray:
        return (random.standard_normal(shape) * scale).astype(np.float32)

    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "gemma3")
    writer.add_bool("clip.use_gelu", True)
    for name, value in {
        "image_size": side,
        "patch_size": patch,
        "embedding_length": inner,
        "feed_forward_length": feed,
        "projection_dim": width,
        "block_count": 1,
        "attention.head_count": heads,
        "projector.scale_factor": merge,
    }.items():
        writer.add_uint32(f"clip.vision.{name}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    patches = (side // patch) ** 2
    tensors = {
        "v.patch_embd.weight": normal(inner, 3, patch, patch),
        "v.patch_embd.bias": normal(inner),
        "v.position_embd.weight": normal(patches, inner),
        "v.post_ln.weight": 1 + normal(inner),
        "v.post_ln.bias": normal(inner),
        "mm.input_projection.weight": normal(inner, width),
        "mm.soft_emb_norm.weight": 1 + normal(inner),
    }
    for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
        tensors |= {f"v.blk.0.{name}.weight": normal(inner, inner), f"v.blk.0.{name}.bias": normal(inner)}
    for name in ("ln1", "ln2"):
        tensors |= {f"v.blk.0.{name}.weight": 1 + normal(inner), f"v.blk.0.{name}.bias": normal(inner)}
    tensors |= {"v.blk.0.ffn_up.weight": normal(feed, inner), "v.blk.0.ffn_up.bias": normal(feed)}
    tensors |= {"v.blk.0.ffn_down.weight": normal(inner, feed), "v.blk.0.ffn_down.bias": normal(inner)}
    _write(writer, tensors)
    return patches // merge**2
