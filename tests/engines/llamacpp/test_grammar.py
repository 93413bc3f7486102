"""Answers under a grammar, drawn over a real vocabulary, are always what the grammar says."""

import ctypes
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from tests.support.device import DEVICE

pytest.importorskip("llama_cpp")
pytest.importorskip("llguidance")

import llama_cpp

from engines.engine import EngineError
from engines.llamacpp.grammar import CACHED, Constraint, Grammars
from engines.llamacpp.json_schema import FORMATS, embedded
from engines.llamacpp.runner import Row, Runner
from engines.llamacpp.sampler import Sampler, allowed_ids
from engines.llamacpp.settings import Settings
from engines.protocol import Grammar, Sampling

pytestmark = pytest.mark.slow

END = 1
TURN_END = 106


#: jsonschema checks "time" as draft 3 had it, and others only with more packages: these are RFC 3339's and RFC 1123's.
CHECKER = jsonschema.FormatChecker(["date", "email", "ipv4", "ipv6", "uuid"])
TIME = r"([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?([zZ]|[+-]([01]\d|2[0-3]):[0-5]\d)"
for name, pattern in {
    "time": TIME,
    "date-time": rf"\d{{4}}-\d\d-\d\d[tT]{TIME}",
    "hostname": r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*",
    "uri": r"[A-Za-z][A-Za-z0-9+.-]*:\S*",
    "duration": r"P(?=.)(\d+[YMWD])*(T(?=.)(\d+[HMS])+)?",
}.items():
    CHECKER.checks(name)(
        lambda value, pattern=pattern: not isinstance(value, str) or bool(re.fullmatch(pattern, value))
    )


def schemas() -> Iterator[Any]:
    for path in sorted((Path(__file__).parent / "schemas").glob("*.json")):
        data = json.loads(path.read_text("utf-8"), parse_float=Decimal)["schemas"]
        for name, schema in json.loads(path.read_text("utf-8"))["schemas"].items():
            yield pytest.param(schema, data[name], id=f"{path.stem}-{name}")


SCHEMAS = list(schemas())


@pytest.fixture(scope="module")
def grammars(gguf_path: Path) -> Iterator[Grammars]:
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(gguf_path).encode(), params)
    yield Grammars(llama_cpp.llama_model_get_vocab(model), [END, TURN_END])
    llama_cpp.llama_model_free(model)


class RandomModel:
    """Logits that mean nothing, but lean the more to single characters, and most to those that close something, the
    longer the answer is."""

    def __init__(self, grammars: Grammars):
        self.vocabulary = grammars.prepare().vocab_size
        self.noise = np.random.default_rng(3).standard_normal(3 * self.vocabulary).astype(np.float32) * 3
        self.lean = np.zeros(self.vocabulary, np.float32)
        texts = {"yz": 0.6, "com": 0.6, "null": 0.7}
        texts |= {chr(code): 0.6 for code in range(32, 127)}
        texts |= {'"': 1.0, "]": 0.9, "}": 0.9, '":': 0.8, ":": 0.8, ",": 0.7}
        for text, strength in texts.items():
            tokens = grammars.prepare().tokenize_str(text)
            if len(tokens) == 1:
                self.lean[tokens] = strength

    def row(self, generator: np.random.Generator, written: int) -> np.ndarray:
        start = generator.integers(2 * self.vocabulary)
        row = self.noise[start : start + self.vocabulary] + self.lean * min(written, 60)
        row[[END, TURN_END]] += 8 + min(written, 60)
        return row


@pytest.fixture(scope="module")
def model(grammars: Grammars) -> RandomModel:
    return RandomModel(grammars)


def write(constraint: Constraint, model: RandomModel, seed: int, limit: int = 800) -> list[int]:
    """The tokens of one answer, which must end by itself."""
    generator = np.random.default_rng(seed)
    # The penalty ends loops, such as that of a number whose digits never end.
    sampler = Sampler(Sampling(seed=seed, frequency_penalty=2.0), [])
    tokens: list[int] = []
    while not constraint.ended:
        assert len(tokens) < limit, "the answer does not end"
        token = sampler.sample(model.row(generator, len(tokens)), allowed=constraint)
        if token in (END, TURN_END):
            assert constraint.may_end
            break
        constraint.accept(token)
        tokens.append(token)
    assert constraint.may_end
    return tokens


def text_of(grammars: Grammars, tokens: list[int]) -> str:
    return grammars.prepare().decode_bytes(tokens).decode()


def follow(grammars: Grammars, constraint: Constraint, text: str) -> bool:
    """Whether the grammar lets ``text`` come next; what `allows`, `mask` and `accept` say is the same."""
    for token in grammars.prepare().tokenize_str(text):
        allowed, mask = constraint.allows(token), constraint.mask()
        assert mask is not None
        assert bool(mask[token // 32] >> (token % 32) & 1) == allowed
        if not allowed:
            return False
        constraint.accept(token)
    return True


def says(grammars: Grammars, kind: str, value: Any, text: str) -> bool:
    """Whether ``text`` as a whole is in the language."""
    constraint = grammars.compile(Grammar(kind, value))
    return follow(grammars, constraint, text) and constraint.may_end and constraint.allows(TURN_END)


def test_there_are_200_schemas() -> None:
    assert len(SCHEMAS) >= 200


@pytest.mark.parametrize(("schema", "exact"), SCHEMAS)
def test_every_answer_is_valid(grammars: Grammars, model: RandomModel, schema: Any, exact: Any) -> None:
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    validator = kind(exact, format_checker=CHECKER)
    for seed in range(3):
        text = text_of(grammars, write(grammars.compile(Grammar("json_schema", schema)), model, seed))
        value = json.loads(text, parse_float=Decimal)
        validator.validate(value)
        text.encode()
        assert "  " not in re.sub(r'"(\\.|[^"\\])*"', "s", text)


def test_json_object_is_an_object_and_nothing_after_it(grammars: Grammars, model: RandomModel) -> None:
    for seed in range(5):
        text = text_of(grammars, write(grammars.compile(Grammar("json_object")), model, seed))
        assert isinstance(json.loads(text), dict)
        assert text.endswith("}")


UNSUPPORTED: dict[str, Any] = {
    "uniqueItems": {"type": "array", "uniqueItems": True},
    "contains": {"type": "array", "contains": {"const": 1}},
    "minContains": {"type": "array", "minContains": 2},
    "not": {"not": {"type": "integer"}},
    "if": {"if": {"type": "integer"}, "then": {"minimum": 5}},
    "then": {"if": {"type": "integer"}, "then": {"minimum": 5}},
    "else": {"if": {"type": "integer"}, "else": {"minLength": 5}},
    "dependentRequired": {"type": "object", "dependentRequired": {"a": ["b"]}},
    "dependentSchemas": {"type": "object", "dependentSchemas": {"a": {"required": ["b"]}}},
    "dependencies": {"type": "object", "dependencies": {"a": ["b"]}},
    "propertyNames": {"type": "object", "propertyNames": {"pattern": "^b$"}},
    "minProperties": {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2},
    "unevaluatedProperties": {"type": "object", "unevaluatedProperties": False},
    "unevaluatedItems": {"type": "array", "unevaluatedItems": False},
    "$dynamicRef": {"$dynamicRef": "#a"},
    "$recursiveRef": {"$recursiveRef": "#"},
    "oneOf": {"oneOf": [{"type": "integer"}, {"type": "number"}]},
    "required": {"type": "object", "properties": {"a": {"type": "string"}}, "required": True},
    "minimum": {"type": "integer", "minimum": "three"},
}


@pytest.mark.parametrize("keyword", UNSUPPORTED)
@pytest.mark.parametrize("place", ["root", "property", "reference", "alternative"])
def test_a_keyword_that_cannot_be_enforced_is_named(grammars: Grammars, keyword: str, place: str) -> None:
    schema = {
        "root": UNSUPPORTED[keyword],
        "property": {"type": "object", "properties": {"list": UNSUPPORTED[keyword]}},
        "reference": {"$ref": "#/$defs/x", "$defs": {"x": UNSUPPORTED[keyword]}},
        "alternative": {"type": "array", "items": {"anyOf": [{"type": "null"}, UNSUPPORTED[keyword]]}},
    }[place]
    with pytest.raises(EngineError) as caught:
        grammars.compile(Grammar("json_schema", schema))
    assert (caught.value.code, caught.value.field) == ("invalid_input", "response_format")
    assert re.search(rf"(?<!\w){re.escape(keyword)}\b", caught.value.message)


WRONG: dict[str, tuple[str, Any, str]] = {
    "type": ("json_schema", {"type": "strin"}, "strin"),
    "not an object": ("json_schema", [1], "object"),
    "contradiction": ("json_schema", {"type": "integer", "minimum": 3, "maximum": 1}, "minimum"),
    "elsewhere": ("json_schema", {"$ref": "https://example.org/other.json"}, "other.json"),
    "pattern": ("json_schema", {"type": "string", "pattern": "(a"}, "unclosed group"),
    "looking ahead": ("json_schema", {"type": "string", "pattern": "^(?!a)"}, "look-ahead"),
    "own options": ("json_schema", {"x-guidance": {"lenient": True}, "not": {}}, "not"),
    "too many": (
        "json_schema",
        {
            "allOf": [
                {"anyOf": [{"type": "integer", "minimum": k}, {"type": "integer", "maximum": -k}]} for k in range(30)
            ]
        },
        "too large",
    ),
    "regex": ("regex", "a(b", "unclosed group"),
    "regex is no text": ("regex", 3, "text"),
    "no choice": ("choice", [], "list"),
    "empty choice": ("choice", [""], "empty"),
    "gbnf": ("gbnf", 'root ::= "a" other', "other"),
    "gbnf place": ("gbnf", 'root ::= "a"\nx ::= ("b"', "line 2"),
    "gbnf root": ("gbnf", 'start ::= "a"', "root"),
    "gbnf nesting": ("gbnf", "root ::= " + "(" * 5000, "recursion"),
    "lark": ("lark", 'start: "a" other', "other"),
    "kind": ("xml", "", "xml"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(grammars: Grammars, name: str) -> None:
    kind, value, word = WRONG[name]
    with pytest.raises(EngineError) as caught:
        grammars.compile(Grammar(kind, value))
    assert caught.value.code == "invalid_input"
    assert caught.value.field == ("response_format" if kind == "json_schema" else "grammar")
    assert word in caught.value.message


def test_a_free_name_cannot_stand_for_a_known_one(grammars: Grammars) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert says(grammars, "json_schema", schema, '{"b":"x","a":1}') is False
    assert says(grammars, "json_schema", schema, '{"a":1,"b":"x"}')
    assert not says(grammars, "json_schema", schema, '{"a":1,"a":"x"}')
    assert not says(grammars, "json_schema", schema, '{"\\u0061":"x"}')


def test_every_format_that_is_enforced_is_checked() -> None:
    assert set(CHECKER.checkers) >= FORMATS


def test_half_a_character_is_never_escaped(grammars: Grammars) -> None:
    for escape in ("\\ud800", "\\ud83d\\ude00", "\\udc00"):
        assert not says(grammars, "json_schema", {"type": "string"}, f'"{escape}"')
    assert says(grammars, "json_schema", {"type": "string"}, '"😀 \\n"')


def test_white_space_is_at_most_one_space(grammars: Grammars) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert says(grammars, "json_schema", schema, '{"a":1}')
    assert says(grammars, "json_schema", schema, '{"a": 1}')
    for text in ('{"a":  1}', '{"a":\n1}', ' {"a":1}', '{"a":1} '):
        assert not says(grammars, "json_schema", schema, text)


@pytest.mark.parametrize(
    "pattern",
    [
        r"\d{4}-\d{2}-\d{2}",
        r"(yes|no)",
        r"[A-Z][a-z]+ [A-Z]\.",
        r"a/b",
        r"^\w+@\w+\.com$",
        r"(\+|-)?[0-9]{1,5}",
        r"[äöü]+",
    ],
)
def test_an_answer_matches_the_whole_expression(grammars: Grammars, model: RandomModel, pattern: str) -> None:
    # Python's \w knows no combining marks, of which Unicode's definition (and llguidance's) has many.
    regex = re.compile(pattern.replace(r"\w", r"[^@.]"))
    for seed in range(5):
        text = text_of(grammars, write(grammars.compile(Grammar("regex", pattern)), model, seed))
        assert regex.fullmatch(text), text


def test_digits_are_ascii(grammars: Grammars) -> None:
    assert says(grammars, "regex", r"[\d]+", "12")
    assert not says(grammars, "regex", r"\d+", "٣")


def test_an_answer_is_one_of_the_choices(grammars: Grammars, model: RandomModel) -> None:
    choices = ["yes", "no", "no idea", "😀 é", 'a "quoted"\nline', "back\\slash/"]
    seen = {text_of(grammars, write(grammars.compile(Grammar("choice", choices)), model, seed)) for seed in range(30)}
    assert seen <= set(choices)
    assert len(seen) > 2
    for text in choices:
        assert says(grammars, "choice", choices, text)


GBNF: list[tuple[str, list[str], list[str]]] = [
    ('root ::= "yes" | "no"', ["yes", "no"], ["yesno", "y"]),
    ('root ::= word "b"\nword ::= [a-z]+', ["ab", "bbb"], ["b", "ac"]),
    ('root ::= ("a" | "ab") "b"', ["ab", "abb"], ["abbb"]),
    ('root ::= ("a"* "b")* # comment\n', ["", "b", "aabb"], ["a"]),
    ('root ::= ("x"+)* "y"', ["y", "xxxy"], ["x"]),
    ('root ::= item{2,3}\nitem ::= [0-9] ","', ["1,2,", "1,2,3,"], ["1,", "1,2,3,4,"]),
    (r'root ::= "\x41\u00e9\"\\\n" [\u0041-\u005A] "\U0001F600"', ['Aé"\\\nZ😀'], ["Aé"]),
    ('root ::= . . "!"', ["ab!", "\n\n!"], ["a!"]),
    ("root ::= [^a-c\\n]+ [\\]\\[/]", ["xyz]", "é/"], ["a]", "x"]),
    ('root ::= "(" root ")" | "x"', ["x", "((x))"], ["(x"]),
    ('root ::= root "a" | "b"', ["b", "baa"], ["a"]),
    ('root ::= some-rule?\nsome-rule ::= (\n  "a" |\n  "b"\n)', ["", "a", "b"], ["ab"]),
]


@pytest.mark.parametrize(("grammar", "inside", "outside"), GBNF)
def test_gbnf_means_what_llama_cpp_means(
    grammars: Grammars, grammar: str, inside: list[str], outside: list[str]
) -> None:
    """llama.cpp's own grammar sampler must agree: the end of the answer is allowed after the texts inside."""
    for text, expected in [(text, True) for text in inside] + [(text, False) for text in outside]:
        assert says(grammars, "gbnf", grammar, text) is expected, text
        assert llama_cpp_says(grammars, grammar, text) is expected or "root ::= root" in grammar, text


def llama_cpp_says(grammars: Grammars, grammar: str, text: str) -> bool:
    """Byte for byte, llama.cpp's answer. It refuses left recursion altogether."""
    sampler = llama_cpp.llama_sampler_init_grammar(grammars._vocab, grammar.encode(), b"root")
    if not sampler:
        return False

    def allows(token: int) -> bool:
        data = (llama_cpp.llama_token_data * 1)((token, 1.0, 0.0))
        candidates = llama_cpp.llama_token_data_array(data, 1, -1, False)
        llama_cpp.llama_sampler_apply(sampler, ctypes.byref(candidates))
        return data[0].logit > -np.inf

    try:
        for token in grammars.prepare().tokenize_str(text):
            if not allows(token):
                return False
            llama_cpp.llama_sampler_accept(sampler, token)
        return allows(END)
    finally:
        llama_cpp.llama_sampler_free(sampler)


def test_the_mask_lists_what_is_allowed(grammars: Grammars) -> None:
    constraint = grammars.compile(Grammar("choice", ["yes", "yellow"]))
    mask = constraint.mask()
    assert mask is not None
    pieces = {grammars.prepare().decode_bytes([int(token)]) for token in allowed_ids(mask)}
    assert pieces == {b"y", b"ye", b"yes", b"yell", b"yellow", b"yel"} & pieces
    assert {b"y", b"yes"} <= pieces
    assert not constraint.may_end
    assert not constraint.ended


def test_a_token_that_may_not_come_is_an_error(grammars: Grammars) -> None:
    constraint = grammars.compile(Grammar("choice", ["yes"]))
    with pytest.raises(EngineError) as caught:
        constraint.accept(grammars.prepare().tokenize_str("no")[0])
    assert caught.value.code == "engine_failed"


def test_sequences_of_one_grammar_are_apart(grammars: Grammars) -> None:
    first, second = (grammars.compile(Grammar("choice", ["yes", "no"])) for _ in range(2))
    assert follow(grammars, first, "yes")
    assert first.ended
    assert not second.ended
    assert follow(grammars, second, "no")


def test_an_end_may_be_accepted_again(grammars: Grammars) -> None:
    constraint = grammars.compile(Grammar("regex", "a+"))
    assert follow(grammars, constraint, "a")
    constraint.accept(TURN_END)
    assert constraint.ended
    constraint.accept(END)
    assert constraint.ended


def test_only_so_many_grammars_are_kept(grammars: Grammars) -> None:
    for number in range(CACHED + 10):
        grammars.compile(Grammar("choice", [str(number)]))
    assert len(grammars._compiled) == CACHED
    last = grammars._compiled[next(reversed(grammars._compiled))]
    grammars.compile(Grammar("choice", [str(CACHED + 9)]))
    assert grammars._compiled[next(reversed(grammars._compiled))] is last


def test_a_grammar_that_met_too_much_begins_anew(grammars: Grammars) -> None:
    """The states of the lexer are shared by all answers of a grammar: many short answers must not use it up."""
    generator = np.random.default_rng(1)

    def write_some(tokens: int) -> None:
        constraint = grammars.compile(Grammar("regex", "(.*a.{30}b.*){3}"))
        for _ in range(tokens):
            mask = constraint.mask()
            assert mask is not None
            ids = allowed_ids(mask)
            constraint.accept(int(generator.choice(ids[~np.isin(ids, [END, TURN_END])])))

    for _ in range(12):
        write_some(60)


def test_a_lazy_grammar_sleeps_until_its_trigger(grammars: Grammars) -> None:
    schema = embedded({"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False})
    lark = "start: text arguments\ntext[lazy]: /(.|\\n)*<call>/\narguments: %json " + json.dumps(schema)
    constraint = grammars.compile(Grammar("lark", lark), lazy=["<call>"])
    for token in grammars.prepare().tokenize_str("some text, and <cal then <call"):
        assert constraint.mask() is None
        assert constraint.allows(token)
        constraint.accept(token)
    constraint.accept(grammars.prepare().tokenize_str(">")[0])
    mask = constraint.mask()
    assert mask is not None
    assert {grammars.prepare().decode_bytes([int(token)])[:1] for token in allowed_ids(mask)} == {b"{"}
    assert follow(grammars, constraint, '{"a": 1}')
    assert constraint.ended


@pytest.mark.parametrize("refused", [TURN_END, 105])  # before the call, and a special token, which is no text
def test_what_a_sleeping_grammar_refuses_wakes_it(grammars: Grammars, refused: int) -> None:
    lark = 'start: text "{}"\ntext[lazy]: /(.|\\n)*<call>/'
    constraint = grammars.compile(Grammar("lark", lark), lazy=["<call>"])
    assert constraint.mask() is None
    assert not constraint.allows(refused)
    assert constraint.mask() is not None


def test_special_tokens_are_named(grammars: Grammars) -> None:
    constraint = grammars.compile(Grammar("lark", 'start: <start_of_turn> "model"'))
    mask = constraint.mask()
    assert mask is not None
    assert list(allowed_ids(mask)) == [105]
    constraint.accept(105)
    assert follow(grammars, constraint, "model")


REAL = ["get_weather", "send_email", "steps", "geo_lookup", "calendar_event"]


def test_the_real_model_answers_in_the_schema(gguf_path: Path) -> None:
    path = Path(__file__).parent / "schemas" / "functions.json"
    schemas = json.loads(path.read_text("utf-8"))["schemas"]
    settings = Settings(sequences=1, context_tokens=1024, kv_tokens=1024, batch_tokens=256, step_tokens=256)
    runner = Runner(str(gguf_path), DEVICE, 2, settings)
    try:
        runner.open_context(settings)
        grammars = Grammars(runner.vocab, runner.end_tokens)
        for name in REAL:
            prompt = runner.tokenize(f"The arguments of {name} as JSON:\n")
            constraint = grammars.compile(Grammar("json_schema", schemas[name]))
            sampler = Sampler(Sampling(seed=1, temperature=0.7), prompt)
            answer: list[int] = []
            tokens, start = prompt, 0
            while not constraint.ended and len(answer) < 400:
                row = runner.decode([Row(0, start, tokens, True)])[0]
                start += len(tokens)
                token = sampler.sample(row, allowed=constraint)
                constraint.accept(token)
                answer.append(token)
                tokens = [token]
            runner.keep(0, 0)
            assert constraint.ended, text_of(grammars, answer)
            jsonschema.validate(json.loads(text_of(grammars, answer)), schemas[name])
    finally:
        runner.close()


def test_dry_stops_at_its_sequence_breakers(grammars: Grammars) -> None:
    prompt = grammars.prepare().tokenize_str("one two three one two")
    three, vocabulary = prompt[2], grammars.prepare().vocab_size
    chosen = []
    for breakers in ((), (" two",)):
        sampling = Sampling(dry_multiplier=50.0, dry_allowed_length=1, dry_sequence_breakers=breakers, seed=1)
        row = np.zeros(vocabulary, np.float32)
        row[three] = 20
        sampler = Sampler(sampling, prompt, vocab=grammars._vocab)
        chosen.append(sampler.sample(row) == three)
        sampler.close()
    assert chosen == [False, True]
