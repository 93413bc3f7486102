"""The call that the Playground just made, as code for other programs. Pure."""

import json
from typing import Any
from urllib.parse import urlsplit

DTYPES = {
    "FP32": "float32", "FP64": "float64", "FP16": "float16", "INT64": "int64", "INT32": "int32", "INT16": "int16",
    "INT8": "int8", "UINT8": "uint8", "BOOL": "bool", "BYTES": "object_",
}  # fmt: skip


def _short(values: list[Any], limit: int = 8) -> str:
    shown = ", ".join(json.dumps(value) for value in values[:limit])
    return f"[{shown}{', …' if len(values) > limit else ''}]"


def infer_code(url: str, route: str, inputs: list[dict[str, Any]], output: str = "") -> dict[str, str]:
    """`inputs` as they are sent: name, shape, datatype, data (flat). Long data is cut with an ellipsis."""
    tensors = ", ".join(
        f'{{"name": "{entry["name"]}", "shape": {json.dumps(entry["shape"])}, '
        f'"datatype": "{entry["datatype"]}", "data": {_short(entry["data"])}}}'
        for entry in inputs
    )
    address = f"{url}/v2/models/{route}/infer"
    curl = f"curl {address} \\\n  -H 'Content-Type: application/json' \\\n  -d '{{\"inputs\": [{tensors}]}}'"
    python = ["import numpy as np", "import tritonclient.http as triton", ""]
    python += [f'client = triton.InferenceServerClient("{urlsplit(url).netloc}")', "inputs = []"]
    for entry in inputs:
        dtype = DTYPES.get(entry["datatype"], "float32")
        python += [
            f"values = np.zeros({entry['shape']}, np.{dtype})  # yours",
            f'tensor = triton.InferInput("{entry["name"]}", {entry["shape"]}, "{entry["datatype"]}")',
            "tensor.set_data_from_numpy(values)",
            "inputs.append(tensor)",
        ]
    python += [f'answer = client.infer("{route}", inputs)', f'print(answer.as_numpy("{output}"))']
    javascript = (
        f'const response = await fetch("{url}/v2/models/{route}/infer", {{\n  method: "POST",\n'
        f'  headers: {{"Content-Type": "application/json"}},\n  body: JSON.stringify({{inputs: [{tensors}]}}),\n}});\n'
        "const {outputs} = await response.json();"
    )
    return {"curl": curl, "Python": "\n".join(python), "JavaScript": javascript}


def chat_code(
    url: str, route: str, messages: list[dict[str, Any]], temperature: float, max_tokens: int
) -> dict[str, str]:
    """`messages` as they are sent."""
    said = json.dumps(messages, ensure_ascii=False)
    curl_said = said.replace("'", "'\\''")
    return {
        "curl": (
            f"curl {url}/v1/chat/completions \\\n  -H 'Content-Type: application/json' \\\n"
            f'  -d \'{{"model": "{route}", "stream": true, "temperature": {temperature:g},\n'
            f'       "max_tokens": {max_tokens}, "messages": {curl_said}}}\''
        ),
        "Python": (
            "from openai import OpenAI\n\n"
            f'client = OpenAI(base_url="{url}/v1", api_key="none")\n'
            "stream = client.chat.completions.create(\n"
            f'    model="{route}", stream=True, temperature={temperature:g}, max_tokens={max_tokens},\n'
            f"    messages={said},\n)\n"
            'for chunk in stream:\n    print(chunk.choices[0].delta.content or "", end="", flush=True)'
        ),
        "JavaScript": (
            'import OpenAI from "openai";\n\n'
            f'const client = new OpenAI({{baseURL: "{url}/v1", apiKey: "none"}});\n'
            "const stream = await client.chat.completions.create({\n"
            f'  model: "{route}", stream: true, temperature: {temperature:g}, max_tokens: {max_tokens},\n'
            f"  messages: {said},\n}});\n"
            'for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");'
        ),
    }
