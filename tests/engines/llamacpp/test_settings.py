import pytest

from engines.engine import EngineError
from engines.llamacpp.settings import Settings, read_settings, resolve


def test_defaults_serve_eight_sequences_of_4096_tokens() -> None:
    settings = resolve(read_settings({})[0], trained_context=32768, on_gpu=False)
    assert (settings.sequences, settings.context_tokens, settings.kv_tokens) == (8, 4096, 8 * 4096)


def test_the_context_is_never_longer_than_the_model_was_trained_on() -> None:
    assert resolve(Settings(context_tokens=9999), 2048, False).context_tokens == 2048
    assert resolve(Settings(), 1024, False).context_tokens == 1024


def test_text_from_the_command_line_is_a_number_and_unknown_names_are_told() -> None:
    settings, unknown = read_settings({"sequences": "4", "colour": "red"})
    assert (settings.sequences, unknown) == (4, ["colour"])


@pytest.mark.parametrize(
    "values", [{"sequences": 0}, {"sequences": -1}, {"context_tokens": "many"}, {"queue_limit": True}]
)
def test_a_bad_value_is_named(values: dict) -> None:
    with pytest.raises(EngineError, match=next(iter(values))) as caught:
        read_settings(values)
    assert caught.value.code == "bad_setting"


def test_the_memory_must_hold_one_context() -> None:
    with pytest.raises(EngineError, match="kv_tokens"):
        resolve(Settings(kv_tokens=100), 4096, False)


def test_a_prompt_always_gets_a_part_of_a_step() -> None:
    assert resolve(Settings(sequences=64, step_tokens=8), 4096, False).step_tokens == 65
