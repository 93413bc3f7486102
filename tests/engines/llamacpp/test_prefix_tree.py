"""The radix tree, and hypothesis against a list of what everyone holds."""

import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from engines.llamacpp.prefix_tree import PrefixTree, common_prefix


def tree_of(**held: list[int]) -> PrefixTree:
    """Holders are named by digits: ``_1=[…]``."""
    tree = PrefixTree()
    for name, tokens in held.items():
        tree.insert(int(name[1:]), tokens)
    tree.check()
    return tree


def test_common_prefix() -> None:
    assert common_prefix([1, 2, 3], [1, 2, 4]) == 2
    assert common_prefix([1, 2], [1, 2, 4]) == 2
    assert common_prefix([], [1]) == 0
    assert common_prefix([2], [1]) == 0


def test_the_longest_match_comes_first() -> None:
    tree = tree_of(_1=[1, 2, 3, 4], _2=[1, 2, 9], _3=[5])
    assert list(tree.matches([1, 2, 3, 7], 4)) == [(1, 3), (2, 2)]
    assert list(tree.matches([1, 2, 3, 7], 2)) in ([(1, 2), (2, 2)], [(2, 2), (1, 2)])
    assert list(tree.matches([6, 1], 2)) == []


def test_a_whole_match_ends_inside_the_request() -> None:
    tree = tree_of(_1=[1, 2, 3, 4], _2=[1, 2], _3=[1])
    assert list(tree.matches([1, 2, 3, 9], 4, whole=True)) == [(2, 2), (3, 1)]
    assert list(tree.matches([1, 2, 3, 4, 5], 4, whole=True)) == [(1, 4), (2, 2), (3, 1)]


def test_tokens_of_an_image_are_negative() -> None:
    tree = tree_of(_1=[1, -7, -7, 2], _2=[1, -8, -8])
    assert list(tree.matches([1, -8, -8, 2], 4)) == [(2, 3), (1, 1)]


def test_what_nobody_else_holds() -> None:
    tree = tree_of(_1=[1, 2, 3, 4], _2=[1, 2, 9, 9], _3=[1, 2, 9], _4=[5, 6])
    assert [tree.unique_from(holder) for holder in (1, 2, 3, 4)] == [2, 3, 3, 0]
    tree.insert(5, [5, 6])
    assert tree.unique_from(4) == 2


def test_a_larger_one_supersedes_its_prefixes() -> None:
    tree = tree_of(_1=[1, 2, 3, 4], _2=[1, 2], _3=[1, 9], _4=[1, 2, 3, 4])
    assert sorted(tree.prefixes_of(1)) == [2, 4]


def test_growing_alone_makes_no_nodes() -> None:
    tree = tree_of(_1=[1])
    node = tree._nodes[1]
    for token in range(1000):
        tree.extend(1, [token])
    assert tree._nodes[1] is node
    assert tree.length(1) == 1001


def shared_tokens(a: list[int], b: list[int]) -> int:
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))))


class Oracle(RuleBasedStateMachine):
    """Few tokens and few holders, so that they meet."""

    holders = st.integers(0, 5)
    texts = st.lists(st.sampled_from([0, 1, -1]), max_size=8)

    @initialize()
    def start(self) -> None:
        self.tree = PrefixTree()
        self.held: dict[int, list[int]] = {}

    @rule(holder=holders, tokens=texts)
    def insert(self, holder: int, tokens: list[int]) -> None:
        self.tree.insert(holder, tokens)
        self.held[holder] = list(tokens)

    @rule(holder=holders, tokens=texts)
    def extend(self, holder: int, tokens: list[int]) -> None:
        if holder in self.held:
            self.tree.extend(holder, tokens)
            self.held[holder] += tokens

    @rule(holder=holders, count=st.integers(0, 8))
    def cut(self, holder: int, count: int) -> None:
        if holder in self.held and count <= len(self.held[holder]):
            self.tree.cut(holder, count)
            del self.held[holder][count:]

    @rule(holder=holders, name=holders)
    def rename(self, holder: int, name: int) -> None:
        if holder in self.held and holder != name:
            self.tree.rename(holder, name)
            self.held[name] = self.held.pop(holder)

    @rule(holder=holders)
    def remove(self, holder: int) -> None:
        self.tree.remove(holder)
        self.held.pop(holder, None)

    @rule(tokens=texts, cut=st.integers(0, 8), whole=st.booleans())
    def match(self, tokens: list[int], cut: int, whole: bool) -> None:
        limit = min(cut, len(tokens))
        shared = {holder: shared_tokens(held, tokens[:limit]) for holder, held in self.held.items()}
        expected = {h: n for h, n in shared.items() if n and (not whole or n == len(self.held[h]))}
        found = list(self.tree.matches(tokens, limit, whole))
        assert dict(found) == expected and len(found) == len(expected)
        assert [n for _, n in found] == sorted(expected.values(), reverse=True)

    @invariant()
    def the_tree_is_what_everyone_holds(self) -> None:
        self.tree.check()
        assert len(self.tree) == len(self.held)
        for holder, held in self.held.items():
            others = {h: t for h, t in self.held.items() if h != holder}
            assert self.tree.tokens(holder) == held
            assert self.tree.length(holder) == len(held)
            assert self.tree.unique_from(holder) == max([shared_tokens(held, t) for t in others.values()], default=0)
            prefixes = [h for h, t in others.items() if held[: len(t)] == t]
            assert sorted(self.tree.prefixes_of(holder)) == sorted(prefixes)


Oracle.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestPrefixTree = Oracle.TestCase
