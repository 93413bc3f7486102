"""llama.cpp's GBNF in llguidance's Lark, with the same language. Pure.

llguidance brings a converter, whose terminals are matched greedily: ``root ::= word "b"``, ``word ::= [a-z]+`` never
ends there. Here every terminal is a single character, so that nothing can be matched too far.
"""

from collections.abc import Iterator

from llguidance.gbnf_to_lark import (
    ASTNode,
    GbnfToLarkError,
    GrammarParser,
    LiteralNode,
    Position,
    RegexNode,
    RepetitionNode,
    RuleRefNode,
    SequenceNode,
)


class GbnfError(ValueError):
    """The grammar is wrong; the message says where."""


def to_lark(text: str) -> str:
    """The Lark grammar of a GBNF ``text``, which begins at ``root``. Raises `GbnfError`."""
    try:
        rules = _Parser().parse(text)
    except (GbnfToLarkError, RecursionError) as error:
        raise GbnfError(str(error)) from None
    if "root" not in rules:
        raise GbnfError("there is no rule named root")
    for number, rule in enumerate(rules.values()):
        rule.name = "start" if rule.name == "root" else f"rule{number}"
    for rule in rules.values():
        for node in _below(rule):
            if isinstance(node, RuleRefNode):
                if node.name not in rules:
                    raise GbnfError(f"there is no rule named {node.name}")
                node.target = rules[node.name]
    return "\n".join(f"{rule.name}: {rule.alternatives}" for rule in rules.values())


class _Repetition(RepetitionNode):
    def is_atomic(self) -> bool:
        return False  # ("a"*)* keeps its brackets.


class _Parser(GrammarParser):
    def _parse_char(self, pos: Position) -> tuple[str, Position]:
        digits = {"x": 2, "u": 4, "U": 8}.get(pos.peek(2)[1:]) if pos.current() == "\\" else None
        if digits is None:
            return super()._parse_char(pos)
        try:
            code = int(pos.peek(2 + digits)[2:], 16)
            # Lark's strings and regular expressions both know \u; what lies beyond it is never special.
            return f"\\u{code:04x}" if code <= 0xFFFF else chr(code), pos.advance(2 + digits)
        except (ValueError, OverflowError):
            raise GbnfToLarkError(pos, "Invalid escape sequence") from None

    def _parse_literal(self, pos: Position) -> tuple[ASTNode, Position]:
        pos = pos.advance()
        characters: list[ASTNode] = []
        while pos.current() != '"':
            character, pos = self._parse_char(pos)
            characters.append(LiteralNode(character))
        return SequenceNode(characters), pos.advance()

    def _parse_repetition(self, pos: Position, nodes: list[ASTNode]) -> Position:
        if nodes and isinstance(nodes[-1], RegexNode) and nodes[-1].rx == ".":
            nodes[-1] = RegexNode("(?s:.)")  # A newline too.
        pos = super()._parse_repetition(pos, nodes)
        if nodes and type(last := nodes[-1]) is RepetitionNode:
            nodes[-1] = _Repetition(last.node, last.min_times, last.max_times)
        return pos


def _below(node: ASTNode) -> Iterator[ASTNode]:
    for child in node.children():
        yield child
        yield from _below(child)
