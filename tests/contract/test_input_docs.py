"""docs/manifest.md has every key that can be declared of an input, and its examples are right."""

import dataclasses
import re
import shlex
import typing

import pytest
from peers import ROOT

from edge_runtime.contract import inputs, readings, settings
from edge_runtime.contract.inputs import AudioDeclaration, FeatureDeclaration, InputDeclaration, SeriesDeclaration

TEXT = (ROOT / "docs" / "manifest.md").read_text(encoding="utf-8")
KINDS = (InputDeclaration, AudioDeclaration, FeatureDeclaration, SeriesDeclaration)
EXAMPLES = [block for block in re.findall(r"(?:^    .*\n)+", TEXT, re.MULTILINE) if "--set input" in block]


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_is_in_the_reference(kind: type) -> None:
    """With its words: what one may write for it."""
    for field in dataclasses.fields(kind):
        assert f"`{field.name}`" in TEXT or f"input.{field.name}`" in TEXT, field.name
    literals = [hint for hint in typing.get_type_hints(kind).values() if typing.get_origin(hint) is typing.Literal]
    for word in (word for literal in literals for word in typing.get_args(literal)):
        assert f"`{word}`" in TEXT, word


def test_every_feature_of_readings_is_in_the_reference() -> None:
    """By the name that a manifest has."""
    assert all(f"`{name}`" in TEXT for name in readings.FEATURES)


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_can_be_typed(example: str) -> None:
    """Each --set of an example is a declaration."""
    words = shlex.split(example.replace("\\\n", " "))
    said = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert settings.declare(said).input is not None


def test_the_example_of_keyword_spotting_fits_its_model() -> None:
    """MLPerf Tiny's takes 49 x 10."""
    (example,) = [block for block in EXAMPLES if "coefficients=10" in block]
    words = shlex.split(example.replace("\\\n", " "))
    declared = settings.declare([word for word in words if word.startswith("input.")]).input
    assert declared is not None
    inputs.check_fits(declared, (1, 49, 10, 1))
    assert declared.sound.window((1, 49, 10, 1)) == 16_000
