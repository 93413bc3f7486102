import pytest

from app.deployments.options import CACHE_TYPES, OPTIONS, check, check_replicas
from app.errors import InvalidInput


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"context_tokens": 4096}, {"context_tokens": 4096}),
        ({"context_tokens": 4096.0}, {"context_tokens": 4096}),
        ({"n_ctx": 2048}, {"context_tokens": 2048}),
        ({"gpu_layers": -1}, {"gpu_layers": -1}),
        ({"cache_type_k": "Q8_0"}, {"cache_type_k": "q8_0"}),
        ({"flash_attention": True}, {"flash_attention": "on"}),
        ({"flash_attention": False}, {"flash_attention": "off"}),
        ({"flash_attention": "auto"}, {"flash_attention": "auto"}),
        ({"swa_full": "off"}, {"swa_full": False}),
        ({"swa_full": True}, {"swa_full": True}),
        ({"tensor_split": "3,1"}, {"tensor_split": [3.0, 1.0]}),
        ({"tensor_split": [3, 1.5]}, {"tensor_split": [3.0, 1.5]}),
        ({"tensor_split": 1}, {"tensor_split": [1.0]}),
    ],
)
def test_what_the_engine_is_told(given, read):
    checked = check(given, "llamacpp")
    assert checked == read
    assert [type(value) for value in checked.values()] == [type(value) for value in read.values()]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"context_tokens": True}, "a number from 32"),
        ({"context_tokens": "4096"}, "a number from 32"),
        ({"context_tokens": 31}, "a number from 32"),
        ({"context_tokens": float("nan")}, "a number from 32"),
        ({"n_ctx": 1}, "n_ctx must be a number"),
        ({"gpu_layers": -2}, "a number from -1"),
        ({"cache_type_k": "q3_0"}, "one of f16, f32"),
        ({"cache_type_k": True}, "one of f16, f32"),
        ({"cache_type_k": 8}, "one of f16, f32"),
        ({"swa_full": "maybe"}, "true or false"),
        ({"swa_full": 1}, "true or false"),
        ({"tensor_split": "3,x"}, "not negative"),
        ({"tensor_split": [1, -1]}, "not negative"),
        ({"tensor_split": "nan"}, "not negative"),
        ({"tensor_split": [0, 0]}, "not negative"),
        ({"tensor_split": []}, "not negative"),
        ({"tensor_split": [True]}, "not negative"),
        ({"speculative": "magic"}, "off, ngram, draft"),
        ({"linger_us": 1}, "not a setting of llamacpp"),
        ({"nonsense": 1}, "no setting nonsense"),
    ],
)
def test_what_is_refused_names_the_key_and_what_it_may_be(given, said):
    with pytest.raises(InvalidInput, match=said) as caught:
        check(given, "llamacpp")
    assert caught.value.field == f"settings.{next(iter(given))}"


def test_one_setting_is_not_given_by_two_names():
    with pytest.raises(InvalidInput, match="the same setting"):
        check({"n_ctx": 64, "context_tokens": 64}, "llamacpp")


@pytest.mark.parametrize("kind", CACHE_TYPES)
def test_values_are_quantised_only_with_flash_attention(kind):
    for attention in ("auto", "on"):
        check({"cache_type_v": kind, "flash_attention": attention}, "llamacpp")
    if kind in ("f16", "f32", "bf16"):
        check({"cache_type_v": kind, "flash_attention": "off"}, "llamacpp")
    else:
        with pytest.raises(InvalidInput, match="flash attention"):
            check({"cache_type_v": kind, "flash_attention": "off"}, "llamacpp")


def test_a_tensor_model_takes_no_settings_of_language_models():
    for key, option in OPTIONS.items():
        if "llamacpp" in option.engines:
            with pytest.raises(InvalidInput, match="not a setting of onnxruntime"):
                check({key: option.default}, "onnxruntime")


def test_every_default_may_be_given():
    for key, option in OPTIONS.items():
        if option.default is not None:
            engine = option.engines[0] if option.engines else "llamacpp"
            assert check({key: option.default}, engine) == {key: option.default}


def test_echo_takes_anything_it_is_told():
    assert check({"crash_on": 13, "sequences": 2}, "echo") == {"crash_on": 13, "sequences": 2}


def test_instances_are_replicas():
    assert check_replicas({"instances": 3, "threads": 2}, 1, 64) == ({"threads": 2}, 3)
    assert check_replicas({"threads": 2}, 4, 64) == ({"threads": 2}, 4)
    assert check_replicas({"instances": 2}, 2, 64) == ({}, 2)


@pytest.mark.parametrize(
    ("settings", "replicas", "field"),
    [
        ({"instances": 2}, 3, "settings.instances"),
        ({"instances": True}, 1, "settings.instances"),
        ({"instances": "2"}, 1, "settings.instances"),
        ({"instances": 65}, 1, "settings.instances"),
        ({}, 0, "replicas"),
    ],
)
def test_replicas_that_cannot_be_name_the_field(settings, replicas, field):
    with pytest.raises(InvalidInput) as caught:
        check_replicas(settings, replicas, 64)
    assert caught.value.field == field
