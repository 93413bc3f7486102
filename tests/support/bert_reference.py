"""BERT's forward pass in numpy, written from the paper (Devlin et al. 2019) to check other implementations against."""

import numpy as np


def _linear(weights: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _norm(weights: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def hidden(weights: dict[str, np.ndarray], tokens: list[int], heads: int) -> np.ndarray:
    """Last hidden states, float [tokens, width]. ``weights`` by llama.cpp's names, matrices as [outputs, inputs]."""
    x = weights["token_embd.weight"][tokens] + weights["position_embd.weight"][: len(tokens)]
    x = _norm(weights, "token_embd_norm", x + weights["token_types.weight"][0])
    layers = sum(name.endswith("ffn_up.weight") for name in weights)
    for layer in (f"blk.{i}" for i in range(layers)):
        query, key, value = (
            _linear(weights, f"{layer}.attn_{which}", x).reshape(len(tokens), heads, -1).swapaxes(0, 1)
            for which in "qkv"
        )
        scores = query @ key.swapaxes(1, 2) / np.sqrt(query.shape[-1])
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (shares / shares.sum(-1, keepdims=True)) @ value
        attended = _linear(weights, f"{layer}.attn_output", mixed.swapaxes(0, 1).reshape(len(tokens), -1))
        x = _norm(weights, f"{layer}.attn_output_norm", x + attended)
        fed = _linear(weights, f"{layer}.ffn_down", _gelu(_linear(weights, f"{layer}.ffn_up", x)))
        x = _norm(weights, f"{layer}.layer_output_norm", x + fed)
    return x


def embedding(weights: dict[str, np.ndarray], tokens: list[int], heads: int, pooling: str = "mean") -> np.ndarray:
    """float [width], of length 1."""
    states = hidden(weights, tokens, heads)
    pooled = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]
    return pooled / np.linalg.norm(pooled)


def score(weights: dict[str, np.ndarray], tokens: list[int], heads: int) -> float:
    """Output of a classification head over the first token: a linear layer, tanh, a linear layer to one number."""
    first = np.tanh(_linear(weights, "cls", hidden(weights, tokens, heads)[0]))
    return float(_linear(weights, "cls.output", first)[0])
