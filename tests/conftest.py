"""Fixtures that every test may ask for."""

from tests.support.gguf import gguf_path  # noqa: F401
from tests.support.llama_sources import llama_sources  # noqa: F401
from tests.support.minilm import minilm  # noqa: F401
from tests.support.pypi_models import astronaut, magika, nudenet, silero_vad  # noqa: F401
