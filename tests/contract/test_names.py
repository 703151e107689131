"""Names that become paths, topics and DNS labels, and versions that become an order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.contract import names
from edge_runtime.contract.errors import ContractError

PART = st.integers(0, 999_999)
VERSION = st.tuples(PART, PART, PART)


def dotted(version: tuple[int, int, int]) -> str:
    """MAJOR.MINOR.PATCH."""
    return ".".join(map(str, version))


@given(VERSION, VERSION)
def test_sequences_order_as_versions_do(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    """The later version has the larger number, and different versions have different numbers."""
    first, second = names.sequence_of(dotted(one)), names.sequence_of(dotted(other))
    assert (first < second) == (one < other)
    assert (first == second) == (one == other)


@pytest.mark.parametrize(
    "version", ["", "1", "1.2", "1.2.3.4", "1.2.3-rc1", "v1.2.3", "1.2.1000000", "-1.2.3", "1.2.3\n"]
)
def test_what_gives_no_order_is_refused(version: str) -> None:
    """Only three numbers below a million are ordered; the message says how to write them."""
    with pytest.raises(ContractError, match=r"MAJOR\.MINOR\.PATCH"):
        names.sequence_of(version)


def test_digits_of_other_scripts_are_refused() -> None:
    """A version that looks unlike another must not have its number."""
    with pytest.raises(ContractError):
        names.sequence_of("\u0661.0.0")


@given(st.text(max_size=70))
def test_a_model_name_is_safe_as_path_topic_and_txt(name: str) -> None:
    """What passes has no separator, wildcard, comma, space or leading dot."""
    try:
        names.check_model_name(name)
    except ContractError:
        return
    assert name.isascii()
    assert not set(name) & set("/\\+#, \0\n")
    assert not name.startswith((".", "-"))
    assert 1 <= len(name) <= 64


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "a b", "", "x" * 65, "a\n", "-rf", "é"])
def test_bad_model_names(name: str) -> None:
    """Names that would escape a folder or a topic are refused."""
    with pytest.raises(ContractError, match="not usable"):
        names.check_model_name(name)


@given(st.text(max_size=70))
def test_a_device_name_is_one_topic_level_and_one_label(name: str) -> None:
    """What passes fits a DNS label and one MQTT topic level."""
    try:
        names.check_device_name(name)
    except ContractError:
        return
    assert 1 <= len(name.encode()) <= 63
    assert not set(name) & set("/+#\0")


def test_a_device_name_that_is_no_text_is_refused() -> None:
    """The operating system gives undecodable bytes as surrogates."""
    with pytest.raises(ContractError):
        names.check_device_name("box\udcff")


def test_topics() -> None:
    """The topics are those that subscribers rely on."""
    topics = names.Topics("edge", "kitchen")
    assert (topics.status, topics.info, topics.models) == (
        "edge/kitchen/status",
        "edge/kitchen/info",
        "edge/kitchen/models",
    )
    assert (topics.events, topics.infer_filter) == ("edge/kitchen/events", "edge/kitchen/infer/+")
    assert (topics.results("digits"), topics.infer("digits")) == (
        "edge/kitchen/results/digits",
        "edge/kitchen/infer/digits",
    )
