"""The configuration: who wins, and what a mistake is called."""

import dataclasses
import math
import re
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import config
from edge_runtime.config import Config
from edge_runtime.contract.errors import ContractError
from edge_runtime.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small configuration file."""
    path = tmp_path / "config.toml"
    path.write_text('[device]\nname = "kitchen"\n[http]\nport = 1001\nhost = "127.0.0.1"\n', encoding="utf-8")
    return path


def load(path: Path | None, *settings: str, **environ: str) -> Config:
    """What config.load makes of them, without this machine's environment."""
    return config.load(path, settings, environ)


def test_later_sources_win(file: Path) -> None:
    """The file is above the defaults, the environment above the file, --set above the environment."""
    assert load(file).http.port == 1001
    assert load(file, EDGE_RUNTIME_HTTP__PORT="1002").http.port == 1002
    assert load(file, "http.port=1003", EDGE_RUNTIME_HTTP__PORT="1002").http.port == 1003
    assert load(file, "http.port=1003", "http.port=1004").http.port == 1004
    assert load(file, "http.port=1003").http.host == "127.0.0.1"
    assert load(file).grpc.port == 8701


def test_the_default_file_need_not_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a file everything has a default; a file that is named must be there."""
    monkeypatch.setattr(config, "DEFAULT_PATH", tmp_path / "absent.toml")
    assert load(None).http.port == 8700
    with pytest.raises(ConfigError, match=r"absent\.toml: there is no such file"):
        load(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("setting", "section", "key", "value"),
    [
        ("device.name=hall", "device", "name", "hall"),
        ("device.name = 'hall'", "device", "name", "hall"),
        ('device.labels={site = "paris"}', "device", "labels", {"site": "paris"}),
        ("device.labels.site=paris", "device", "labels", {"site": "paris"}),
        ("mqtt.url=mqtt://broker:1883", "mqtt", "url", "mqtt://broker:1883"),
        ("mqtt.qos=0", "mqtt", "qos", 0),
        ("discovery.mdns=false", "discovery", "mdns", False),
        ('discovery.interfaces=["127.0.0.1"]', "discovery", "interfaces", ("127.0.0.1",)),
        ("mqtt.reconnect_max_seconds=5", "mqtt", "reconnect_max_seconds", 5.0),
        ("mqtt.password=a=b", "mqtt", "password", "a=b"),
    ],
)
def test_values_are_toml_or_a_bare_word(setting: str, section: str, key: str, value: Any) -> None:
    """On the command line and in the environment values are written as in the file; strings need no quotes."""
    assert getattr(getattr(load(None, setting), section), key) == value
    path, _, text = setting.partition("=")
    variable = "EDGE_RUNTIME_" + path.strip().upper().replace(".", "__")
    assert getattr(getattr(load(None, **{variable: text}), section), key) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[http]\nprot = 1", r"unknown key 'http\.prot'; known here: .*port"),
        ("[htp]\nport = 1", "unknown key 'htp'"),
        ('[http]\nport = "8700"', r"http\.port must be a whole number, but is '8700'"),
        ("[http]\nport = true", r"http\.port must be a whole number, but is True"),
        ("[http]\nport = 70000", "http: port must be 0 to 65535, but is 70000"),
        ("http = 3", "http must be a table"),
        ("[http\n", "line 1"),
        ('[mqtt]\nurl = "http://x"', "mqtt: url must be mqtt://"),
        ('[mqtt]\ntopic_prefix = "edge/#"', "without wildcards"),
        ('[mqtt]\ncert = "c"', "cert and key must be given together"),
        ("[mqtt]\nqos = 2", r"mqtt\.qos must be one of 0, 1"),
        ("[deploy]\nkeep_versions = 1", "deploy: keep_versions must be 2 to 1000, but is 1"),
        ("[http]\nmax_connections = 0", "http: max_connections must be 8 to 100000, but is 0"),
        ("[http]\nmax_bodies_bytes = 1000", "max_bodies_bytes must be at least max_body_bytes"),
        ("[http]\nbody_timeout_seconds = 0", r"body_timeout_seconds must be 0\.05 to 86400, but is 0"),
        ("[lifecycle]\nhealth_timeout_seconds = 0", r"health_timeout_seconds must be 0\.1 to"),
        ("[lifecycle]\nhealth_interval_seconds = 0", r"health_interval_seconds must be 0\.1 to"),
        ("[lifecycle]\ndrain_seconds = nan", r"lifecycle\.drain_seconds must be a finite number, but is nan"),
        ("[lifecycle]\ndrain_seconds = -inf", r"lifecycle\.drain_seconds must be a finite number"),
        ("[lifecycle]\ndrain_seconds = -1", "lifecycle: drain_seconds must be 0 to 600"),
        ("[deploy]\nmax_uploads = 0", "max_uploads must be 1 to 1000, but is 0"),
        ("[deploy]\nprobe_memory_bytes = 1", "probe_memory_bytes must be 268435456 to"),
        ("[deploy]\ntrial_seconds = nan", r"deploy\.trial_seconds must be a finite number"),
        ("[engine]\nrequest_timeout_seconds = -1", "request_timeout_seconds must be"),
        ("[engine]\nqueue_max_requests = -1", "queue_max_requests must be 0 to"),
        ("[discovery]\nrescan_seconds = -1", "rescan_seconds must be"),
        ('[[pipeline]]\nname = "a"\nmodel = "m"', r"key 'pipeline\[0\]\.source' is missing"),
        ('[[pipeline]]\nname = "a"\nmodel = "m"\nsource = {port = ""}', r"pipeline\[0\]\.source: port is empty"),
        ('[[pipeline]]\nname = "a"\nmodel = "m"\nsource = {port = "x", baud = 0}', "baud must be 1 to"),
        ('[[pipeline]]\nname = "a"\nmodel = "m"\nsource = {port = "x"}\nwindow = {count = 0}', "count must be 1 to"),
        ('[[pipeline]]\nname = "a/b"\nmodel = "m"\nsource = {port = "x"}', "not usable"),
    ],
)
def test_a_mistake_in_the_file_names_key_and_file(file: Path, text: str, message: str) -> None:
    """Unknown key, wrong type, wrong value, wrong TOML: the message says where and in which file."""
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=f"^{re.escape(str(file))}: .*{message}"):
        load(file)


SECTIONS = [
    kind
    for kind in vars(config).values()
    if dataclasses.is_dataclass(kind) and isinstance(kind, type) and kind.__name__.endswith("Config")
]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_number_has_a_range_that_is_checked_at_both_ends(section: type) -> None:
    """A number without one could disable the box; so could one that is declared and not looked at."""
    hints = typing.get_type_hints(section)
    numbers = {key for key, hint in hints.items() if {int, float} & {hint, *typing.get_args(hint)}}
    assert set(config.ranges(section)) == numbers
    required = {"port": "x"} if section is config.SourceConfig else {}
    required = {"name": "a"} if section is config.ModelConfig else required
    required = {"name": "a", "model": "m", "source": config.SourceConfig("x")} if "source" in hints else required
    for key, allowed in config.ranges(section).items():
        for value in (allowed.least - 1, allowed.most * 2 + 1, math.nan):
            with pytest.raises(ContractError, match=f"^{key} must be "):
                section(**required | {key: value})


def test_a_model_has_the_engines_settings_but_for_its_own(file: Path) -> None:
    """[[model]] overrides key by key, also with an empty value; another delegate begins without options."""
    file.write_text(
        '[engine]\nisolation = "process"\ndelegate = "a.so"\ndelegate_options = {x = "1"}\n'
        '[[model]]\nname = "own"\nisolation = "none"\ndelegate = "b.so"\n'
        '[[model]]\nname = "none"\ndelegate = ""\n[[model]]\nname = "more"\ndelegate_options = {y = "2"}\n',
        encoding="utf-8",
    )
    whole = load(file)

    def chosen(model: str) -> tuple[object, ...]:
        found = config.engine_for(whole.engine, whole.model, model)
        return found.isolation, found.delegate, found.delegate_options

    assert chosen("other") == ("process", "a.so", {"x": "1"})
    assert chosen("own") == ("none", "b.so", {})
    assert chosen("none") == ("process", "", {})
    assert chosen("more") == ("process", "a.so", {"y": "2"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "a"\n[[model]]\nname = "a"', r"two \[\[model\]\] have the same name: a, a"),
        ('name = "a/b"', "not usable"),
        ('isolation = "process"', r"key 'model\[0\]\.name' is missing"),
        ('name = "a"\nisolation = "yes"', r"model\[0\]\.isolation must be one of"),
        ('name = "a"\nhttp = 1', r"unknown key 'model\[0\]\.http'"),
    ],
)
def test_a_mistake_in_a_models_table_is_told(file: Path, text: str, message: str) -> None:
    """With the table it is in."""
    file.write_text(f"[[model]]\n{text}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load(file)


def test_two_pipelines_of_one_name_are_refused(file: Path) -> None:
    """Their results could not be told apart."""
    one = '[[pipeline]]\nname = "a"\nmodel = "m"\nsource = {port = "x"}\n'
    file.write_text(one * 2, encoding="utf-8")
    with pytest.raises(ConfigError, match="the same name: a, a"):
        load(file)


def test_a_mistake_elsewhere_names_where(file: Path) -> None:
    """The blame goes to the variable or the --set, not to the file."""
    with pytest.raises(ConfigError, match=r"^EDGE_RUNTIME_HTTP__PORT: http\.port must be a whole number"):
        load(file, EDGE_RUNTIME_HTTP__PORT="high")
    with pytest.raises(ConfigError, match=r"^EDGE_RUNTIME_HTP__PORT: unknown key 'htp'"):
        load(file, EDGE_RUNTIME_HTP__PORT="1")
    with pytest.raises(ConfigError, match=r"^--set http\.prot=1: unknown key 'http\.prot'"):
        load(file, "http.prot=1")
    with pytest.raises(ConfigError, match="write it as KEY=VALUE"):
        load(file, "http.port")
    with pytest.raises(ConfigError, match=r"--set http\.port\.x=1: 'port' is not a table"):
        load(file, "http.port.x=1")


def test_other_variables_are_left_alone(file: Path) -> None:
    """Only EDGE_RUNTIME_ names with a section count."""
    assert load(file, EDGE_RUNTIME_REQUIRE_PEERS="1", HTTP__PORT="9", OTHER_HTTP__PORT="9").http.port == 1001


def test_keys_that_belong_together_may_come_one_by_one() -> None:
    """A certificate and its key can be given in two variables, or in two --set."""
    assert load(None, "mqtt.cert=c", "mqtt.key=k").mqtt.key == "k"
    assert load(None, EDGE_RUNTIME_MQTT__CERT="c", EDGE_RUNTIME_MQTT__KEY="k").mqtt.cert == "c"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a = 1\n" * 3])
def test_what_is_no_toml_is_refused(file: Path, content: bytes) -> None:
    """Bytes that are no UTF-8 and keys that come twice are errors that name the file."""
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="config"):
        load(file)
    with pytest.raises(ConfigError, match="Is a directory"):
        load(file.parent)


@given(st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 65535))
def test_precedence_holds_for_any_values(one: int, two: int, three: int) -> None:
    """Whatever the values are, also when they equal a default."""
    assert load(None, f"http.port={three}", EDGE_RUNTIME_HTTP__PORT=str(two)).http.port == three
    assert load(None, EDGE_RUNTIME_GRPC__PORT=str(one)).grpc.port == one
