"""Who holds which beginnings of token sequences: a radix tree over token ids.

Each holder (a slot of the key-value memory, a saved state) ends at one node and holds every token on the way from the
root to it. A node that nobody ends at has at least two children, so the tree is as small as it can be, and how much of
a holder's content nobody else has is the length of one edge.
"""

from collections.abc import Iterator


class _Node:
    __slots__ = ("children", "edge", "end", "holders", "parent")

    def __init__(self, edge: list[int], end: int, parent: "_Node | None"):
        self.edge = edge
        self.end = end
        """Tokens from the root to the end of ``edge``."""
        self.parent = parent
        self.children: dict[int, _Node] = {}
        self.holders: set[int] = set()


class PrefixTree:
    """Holders are any integers. Tokens may be negative (what stands for a piece of an image)."""

    def __init__(self) -> None:
        self._root = _Node([], 0, None)
        self._nodes: dict[int, _Node] = {}

    def __contains__(self, holder: int) -> bool:
        return holder in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)

    def length(self, holder: int) -> int:
        """How many tokens ``holder`` holds; 0 where the tree does not know it."""
        node = self._nodes.get(holder)
        return node.end if node else 0

    def tokens(self, holder: int) -> list[int]:
        edges = []
        node: _Node | None = self._nodes[holder]
        while node:
            edges.append(node.edge)
            node = node.parent
        return [token for edge in reversed(edges) for token in edge]

    def insert(self, holder: int, tokens: list[int]) -> None:
        """``holder`` holds ``tokens``, instead of what it held."""
        self.remove(holder)
        self._place(holder, self._descend(self._root, tokens))

    def extend(self, holder: int, tokens: list[int]) -> None:
        """``tokens`` come after what ``holder`` holds already."""
        node = self._nodes[holder]
        if not node.children and len(node.holders) == 1 and node.parent:
            # The case of every running sequence in every step.
            node.edge.extend(tokens)
            node.end += len(tokens)
        elif tokens:
            self._move(holder, node, self._descend(node, tokens))

    def cut(self, holder: int, count: int) -> None:
        """``holder`` holds its first ``count`` tokens only."""
        old = node = self._nodes[holder]
        while node.parent and node.parent.end >= count:
            node = node.parent
        if node.end > count:
            node = self._split(node, count)
        if node is not old:
            self._move(holder, old, node)

    def rename(self, holder: int, name: int) -> None:
        """What ``holder`` holds is from now on ``name``'s; what that held is forgotten."""
        self.remove(name)
        node = self._nodes.pop(holder)
        node.holders.discard(holder)
        self._place(name, node)

    def remove(self, holder: int) -> None:
        """``holder`` holds nothing; it need not have held anything."""
        if node := self._nodes.pop(holder, None):
            node.holders.discard(holder)
            self._prune(node)

    def unique_from(self, holder: int) -> int:
        """From which position on nobody else holds what ``holder`` holds; its length where all of it is shared."""
        node = self._nodes[holder]
        if node.children or len(node.holders) > 1 or not node.parent:
            return node.end
        return node.parent.end

    def prefixes_of(self, holder: int) -> list[int]:
        """The holders of which every token is held by ``holder`` too."""
        found: list[int] = []
        node: _Node | None = self._nodes[holder]
        while node:
            found += (other for other in node.holders if other != holder)
            node = node.parent
        return found

    def matches(self, tokens: list[int], limit: int, whole: bool = False) -> Iterator[tuple[int, int]]:
        """(holder, leading tokens that it shares with the first ``limit`` of ``tokens``, at least 1), longest first.

        ``whole``: only holders of which every token is shared, because what they hold cannot be cut.
        """
        path = self._walk(tokens, limit)
        came_from: _Node | None = None
        for node, shared in reversed(path):
            if whole:
                if shared == node.end:
                    yield from ((holder, shared) for holder in node.holders)
            else:
                yield from ((holder, shared) for holder in _below(node, came_from))
            came_from = node

    def check(self) -> None:
        """Raise `AssertionError` where the tree is not as described: for tests."""
        seen: dict[int, _Node] = {}
        stack = [self._root]
        while stack:
            node = stack.pop()
            seen.update(dict.fromkeys(node.holders, node))
            stack += node.children.values()
            if node is self._root:
                assert (node.end, node.edge, node.parent) == (0, [], None)
            else:
                assert node.parent and node.edge and node.end == node.parent.end + len(node.edge)
                assert node.holders or len(node.children) > 1, "a node that could be left out"
            for token, child in node.children.items():
                assert child.edge[0] == token and child.parent is node
        assert seen == self._nodes

    def _walk(self, tokens: list[int], limit: int) -> list[tuple[_Node, int]]:
        """The nodes on the way along ``tokens`` and how far each takes it, the last one perhaps in part."""
        node, depth = self._root, 0
        path: list[tuple[_Node, int]] = []
        while depth < limit and (child := node.children.get(tokens[depth])):
            size = min(len(child.edge), limit - depth)
            shared = common_prefix(child.edge[:size], tokens[depth : depth + size])
            depth += shared
            path.append((child, depth))
            if depth < child.end:
                break
            node = child
        return path

    def _descend(self, node: _Node, tokens: list[int]) -> _Node:
        """The node at the end of ``tokens`` below ``node``, made where there is none."""
        depth = 0
        while depth < len(tokens):
            child = node.children.get(tokens[depth])
            if not child:
                rest = list(tokens[depth:])
                node.children[rest[0]] = child = _Node(rest, node.end + len(rest), node)
                return child
            shared = common_prefix(child.edge, tokens[depth : depth + len(child.edge)])
            node = child if shared == len(child.edge) else self._split(child, node.end + shared)
            depth += shared
        return node

    def _split(self, node: _Node, end: int) -> _Node:
        """Cut the edge of ``node`` in two; the new node above it, which ends at ``end``."""
        parent = node.parent
        assert parent
        at = end - parent.end
        upper = _Node(node.edge[:at], end, parent)
        parent.children[upper.edge[0]] = upper
        node.edge, node.parent = node.edge[at:], upper
        upper.children[node.edge[0]] = node
        return upper

    def _place(self, holder: int, node: _Node) -> None:
        node.holders.add(holder)
        self._nodes[holder] = node

    def _move(self, holder: int, old: _Node, new: _Node) -> None:
        self._place(holder, new)
        old.holders.discard(holder)
        self._prune(old)

    def _prune(self, node: _Node) -> None:
        """Take out what nobody needs any more, from ``node`` upwards."""
        while node.parent and not node.holders and not node.children:
            del node.parent.children[node.edge[0]]
            node = node.parent
        if node.parent and not node.holders and len(node.children) == 1:
            (child,) = node.children.values()
            node.edge += child.edge
            node.end, node.children, node.holders = child.end, child.children, child.holders
            for grandchild in node.children.values():
                grandchild.parent = node
            for holder in node.holders:
                self._nodes[holder] = node


def common_prefix(a: list[int], b: list[int]) -> int:
    """How many leading tokens ``a`` and ``b`` share."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:  # a[:low] == b[:low] and a[:high] != b[:high]
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _below(node: _Node, skipped: _Node | None) -> Iterator[int]:
    """The holders that end at ``node`` or below it, but not in the branch ``skipped``."""
    stack = [node]
    while stack:
        node = stack.pop()
        yield from node.holders
        stack += (child for child in node.children.values() if child is not skipped)
