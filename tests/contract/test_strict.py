"""Strict decoding: what was encoded comes back, and nothing else is taken."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.contract import strict
from edge_runtime.contract.errors import ContractError


@dataclass(frozen=True)
class Leaf:
    """Every scalar kind."""

    count: int
    ratio: float = 0.5
    text: str = "x"
    flag: bool = False
    choice: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Tree:
    """Every way to hold them."""

    leaf: Leaf
    leaves: tuple[Leaf, ...] = ()
    by_name: dict[str, Leaf] = field(default_factory=dict)
    maybe: Leaf | None = None
    either: int | str = 0


LEAF = st.builds(
    Leaf,
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.booleans(),
    st.sampled_from(["a", "b"]),
)
TREE = st.builds(
    Tree,
    LEAF,
    st.lists(LEAF, max_size=3).map(tuple),
    st.dictionaries(st.text(), LEAF, max_size=3),
    st.none() | LEAF,
    st.integers() | st.text(),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["leaf", "count", "x"]), inner),
    max_leaves=12,
)


@given(TREE)
def test_what_is_encoded_comes_back(tree: Tree) -> None:
    """Decoding the encoding gives an equal value, with defaults left out on the way."""
    plain = strict.encode(tree)
    assert strict.decode(Tree, plain) == tree
    assert strict.encode(strict.decode(Tree, plain)) == plain


@given(JSON)
def test_any_other_data_is_refused_as_such(data: Any) -> None:
    """Whatever is decoded either fits exactly or is a ContractError; nothing else is raised."""
    try:
        tree = strict.decode(Tree, data)
    except ContractError:
        return
    assert set(strict.encode(tree)) <= set(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "key 'leaf' is missing"),
        ({"leaf": {}}, "key 'leaf.count' is missing"),
        ({"leaf": {"count": 1, "colour": 2}}, r"unknown key 'leaf\.colour'; known here: choice, count"),
        ({"leaf": {"count": True}}, r"leaf\.count must be a whole number, but is True"),
        ({"leaf": {"count": 1.0}}, r"leaf\.count must be a whole number, but is 1\.0"),
        ({"leaf": {"count": "1"}}, r"leaf\.count must be a whole number, but is '1'"),
        ({"leaf": {"count": 1, "flag": 1}}, r"leaf\.flag must be true or false"),
        ({"leaf": {"count": 1, "ratio": "half"}}, r"leaf\.ratio must be a number"),
        ({"leaf": {"count": 1, "ratio": float("nan")}}, r"leaf\.ratio must be a finite number, but is nan"),
        ({"leaf": {"count": 1, "ratio": float("-inf")}}, r"leaf\.ratio must be a finite number, but is -inf"),
        ({"leaf": {"count": 1, "ratio": 10**400}}, r"leaf\.ratio must be a finite number, but is 1000"),
        ({"leaf": {"count": 1, "choice": "c"}}, r"leaf\.choice must be one of 'a', 'b', but is 'c'"),
        ({"leaf": {"count": 1}, "leaves": [{"count": 1}, {}]}, r"key 'leaves\[1\]\.count' is missing"),
        ({"leaf": {"count": 1}, "leaves": {}}, "leaves must be a list of a table"),
        ({"leaf": {"count": 1}, "by_name": {"n": 1}}, r"by_name\.n must be a table"),
        ({"leaf": {"count": 1}, "either": 1.5}, "either must be a whole number or a string"),
        ({"leaf": {"count": 1}, "either": None}, "either must be"),
        ([], r"the document must be a table, but is \[\]"),
        ({"leaf": "x" * 1000}, r"\.\.\.$"),
    ],
)
def test_the_message_names_the_path(data: Any, message: str) -> None:
    """Each refusal says where, what was expected and what was there, in bounded length."""
    with pytest.raises(ContractError, match=message) as caught:
        strict.decode(Tree, data)
    assert len(str(caught.value)) < 200


def test_a_whole_number_is_a_number() -> None:
    """The one widening: an int where a float is declared."""
    leaf = strict.decode(Leaf, {"count": 1, "ratio": 2})
    assert leaf == replace(Leaf(1), ratio=2.0)
    assert isinstance(leaf.ratio, float)


def test_defaults_are_left_out() -> None:
    """Only what differs is written."""
    assert strict.encode(Tree(Leaf(3))) == {"leaf": {"count": 3}}
