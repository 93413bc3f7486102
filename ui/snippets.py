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


def chat_code(url: str, route: str, messages: list[dict[str, Any]], options: dict[str, Any]) -> dict[str, str]:
    """`messages` as they are sent; ``options``: ``temperature``, ``max_tokens`` and more, likewise."""
    said = json.dumps(messages, ensure_ascii=False)
    curl_said = said.replace("'", "'\\''")
    told = ", ".join(f'"{name}": {json.dumps(value)}' for name, value in options.items())
    known = ", ".join(f"{name}={value!r}" for name, value in options.items() if name in OPENAI)
    more = {name: value for name, value in options.items() if name not in OPENAI}
    extra = f"    extra_body={more!r},\n" if more else ""
    spoken = ", ".join(f"{name}: {json.dumps(value)}" for name, value in options.items())
    return {
        "curl": (
            f"curl {url}/v1/chat/completions \\\n  -H 'Content-Type: application/json' \\\n"
            f'  -d \'{{"model": "{route}", "stream": true, {told},\n'
            f'       "messages": {curl_said}}}\''
        ),
        "Python": (
            "from openai import OpenAI\n\n"
            f'client = OpenAI(base_url="{url}/v1", api_key="none")\n'
            "stream = client.chat.completions.create(\n"
            f'    model="{route}", stream=True, {known},\n{extra}'
            f"    messages={said},\n)\n"
            'for chunk in stream:\n    print(chunk.choices[0].delta.content or "", end="", flush=True)'
        ),
        "JavaScript": (
            'import OpenAI from "openai";\n\n'
            f'const client = new OpenAI({{baseURL: "{url}/v1", apiKey: "none"}});\n'
            "const stream = await client.chat.completions.create({\n"
            f'  model: "{route}", stream: true, {spoken},\n'
            f"  messages: {said},\n}});\n"
            'for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");'
        ),
    }


#: Options that OpenAI's own client knows.
OPENAI = {"temperature", "max_tokens"}


#: How a program turns a file into what a request may hold.
_BASE64 = 'base64.b64encode(open({name}, "rb").read()).decode()'


def item_code(url: str, route: str, capability: str, sample: Any) -> dict[str, str]:
    """The question of the Playground to a model with declared steps. ``sample`` is the item as `/v1/classify` takes it:
    a text, ``{"image": file name}``, ``{"row": …}``, or ``{"query", "documents"}``."""
    name = next((value for key, value in sample.items() if key in FILES), "") if isinstance(sample, dict) else ""
    if capability in PATHS:
        return _known_code(f"{url}{PATHS[capability]}", route, sample, str(name))
    return _tensor_code(url, route, sample, str(name))


FILES = ("image", "audio", "file")
PATHS = {"classify": "/v1/classify", "embedding": "/v1/embeddings", "rerank": "/v1/rerank"}


def _known_code(address: str, route: str, sample: Any, name: str) -> dict[str, str]:
    body: dict[str, Any] = {"model": route}
    body |= sample if isinstance(sample, dict) and "documents" in sample else {"input": sample}
    said = json.dumps(body, ensure_ascii=False)
    if not name:
        quoted = said.replace("'", "'\\''")
        return {
            "curl": f"curl {address} \\\n  -H 'Content-Type: application/json' \\\n  -d '{quoted}'",
            "Python": f'import requests\n\nanswer = requests.post("{address}", json={said})\nprint(answer.json())',
            "JavaScript": (
                f'const response = await fetch("{address}", {{\n  method: "POST",\n'
                f'  headers: {{"Content-Type": "application/json"}},\n  body: JSON.stringify({said}),\n}});\n'
                "console.log(await response.json());"
            ),
        }
    kind, quoted_name = next(key for key in FILES if key in sample), json.dumps(name, ensure_ascii=False)
    return {
        "curl": (
            f'echo "{{\\"model\\": \\"{route}\\", \\"input\\":\n'
            f'  {{\\"{kind}\\": \\"$(base64 -w0 {_shell(name)})\\"}}}}" |\n'
            f"  curl {address} \\\n  -H 'Content-Type: application/json' -d @-"
        ),
        "Python": (
            f"import base64\nimport requests\n\n{kind} = {_BASE64.format(name=quoted_name)}\n"
            f'answer = requests.post(\n    "{address}",\n'
            f'    json={{"model": "{route}", "input": {{"{kind}": {kind}}}}},\n'
            ")\nprint(answer.json())"
        ),
        "JavaScript": (
            f'import {{readFileSync}} from "node:fs";\n\nconst {kind} = readFileSync({quoted_name}, "base64");\n'
            f'const response = await fetch("{address}", {{\n  method: "POST",\n'
            '  headers: {"Content-Type": "application/json"},\n'
            f'  body: JSON.stringify({{model: "{route}", input: {{{kind}}}}}),\n}});\n'
            "console.log(await response.json());"
        ),
    }


def _shell(name: str) -> str:
    return name if name.replace(".", "").replace("-", "").replace("_", "").isalnum() else f"'{name}'"


def _tensor_code(url: str, route: str, sample: Any, name: str) -> dict[str, str]:
    """For steps that end in neither classes nor an embedding: boxes, values, sound over time."""
    read = f"open({json.dumps(name, ensure_ascii=False)}, 'rb').read()" if name else _item_text(sample)
    python = (
        "import numpy as np\nimport tritonclient.http as triton\n\n"
        f'client = triton.InferenceServerClient("{urlsplit(url).netloc}")\nitem = {read}\n'
        'tensor = triton.InferInput("item", [1], "BYTES")\n'
        "tensor.set_data_from_numpy(np.array([item], np.object_))\n"
        f'print(client.infer("{route}", [tensor]).get_response())'
    )
    if name:
        return {"Python": python}
    inputs = {"inputs": [{"name": "item", "datatype": "BYTES", "shape": [1], "data": [_plain(sample)]}]}
    quoted = json.dumps(inputs, ensure_ascii=False).replace("'", "'\\''")
    curl = (
        f"curl {url}/v2/models/{route}/infer \\\n  -H 'Content-Type: application/json' \\\n  -d '{quoted}'"
    )  # fmt: skip
    return {"curl": curl, "Python": python}


def _plain(sample: Any) -> str:
    if isinstance(sample, dict) and "row" in sample:
        return json.dumps(sample["row"], ensure_ascii=False)
    return sample if isinstance(sample, str) else json.dumps(sample, ensure_ascii=False)


def _item_text(sample: Any) -> str:
    return f"{json.dumps(_plain(sample), ensure_ascii=False)}.encode()"
