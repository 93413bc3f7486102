"""llama.cpp: language, embedding and reranking models in GGUF files."""

import os

# Read when libgomp loads. Its default spins for milliseconds at each barrier: when anything else wants a core, the
# spinning thread keeps it from the one it waits for, and 60 tokens/s became 2. At 1,000 an idle machine is no slower.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
