"""How alike sentences are, by the embeddings that OpenAI's client gets."""

import numpy as np
import openai

FIRST = "That is a happy person"
OTHERS = ["That is a very happy person", "That is a happy dog", "Today is a sunny day"]

client = openai.OpenAI(base_url="http://127.0.0.1:8484/v1", api_key="none")
answer = client.embeddings.create(model="sentences", input=[FIRST, *OTHERS])
embeddings = np.array([entry.embedding for entry in answer.data])
print(f"{embeddings.shape[1]} values each, {answer.usage.prompt_tokens} tokens")
for text, likeness in zip(OTHERS, embeddings[1:] @ embeddings[0], strict=True):
    print(f"{likeness:.3f}  {text}")
