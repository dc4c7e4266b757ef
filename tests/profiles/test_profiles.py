import re

import pytest
import yaml

from edgekd import profiles
from edgekd.errors import InputError

SHIPPED = {
    "browser", "edge-server", "host", "mac", "phone-android", "phone-android-mid", "phone-ios",
    "phone-ios-older", "raspberry-pi-5",
}  # fmt: skip
VALID = {
    "title": "kiosk",
    "target": "onnx",
    "where": "elsewhere",
    "hardware": {
        "cpu": {"value": "4 x Cortex-A72", "source": "https://example.org/kiosk"},
        "memory": {"value": "2 GB", "source": "https://example.org/kiosk"},
    },
}


def test_what_ships():
    assert set(profiles.available()) == SHIPPED
    for name in SHIPPED:
        profile = profiles.load(name)
        assert profile.name == name and profile.title
        assert all(f.source.startswith("http") for f in profile.hardware.values())


def test_default_is_this_machine_on_one_thread():
    host = profiles.load("host")
    assert (host.where, host.target, host.runtime.threads) == ("host", "onnx", 1)


def test_a_users_own_profile_lies_beside_the_recipe(tmp_path):
    (tmp_path / "kiosk.yaml").write_text(yaml.safe_dump({**VALID, "memory_cap": "64 MiB"}))
    (tmp_path / "recipe.yaml").write_text("task: text-classification\n")
    assert set(profiles.available(tmp_path)) == SHIPPED | {"kiosk"}
    assert profiles.load("kiosk", tmp_path).memory_cap_bytes == 64 * 2**20
    assert profiles.load("kiosk.yaml", tmp_path).name == "kiosk"
    assert profiles.load(tmp_path / "kiosk.yaml").title == "kiosk"


def broken(**changes):
    return {k: v for k, v in {**VALID, **changes}.items() if v is not None}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (broken(hardware={"cpu": VALID["hardware"]["cpu"]}), "no figure 'memory'"),
        (broken(hardware={**VALID["hardware"], "gpu": {"value": "x"}}), "hardware.gpu.source"),
        (
            broken(hardware={**VALID["hardware"], "gpu": {"value": "x", "source": "a friend"}}),
            "not a source",
        ),
        (broken(memory_kap="1 MB"), "did you mean 'memory_cap'"),
        (broken(runtime={"thread": 2}), "did you mean 'threads'"),
        (broken(runtime={"threads": 0}), "runtime.threads"),
        (broken(target=None), "'target' is missing"),
        (broken(price={"per_hour": 1, "of": "a server", "cores": 4}), "'price.source' is missing"),
    ],
)
def test_fault_is_one_line_that_names_it(tmp_path, values, says):
    file = tmp_path / "kiosk.yaml"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=r"kiosk\.yaml") as caught:
        profiles.load(file)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["where", "target"])
def test_own_profile_that_lacks_a_key_is_told_which(tmp_path, key):
    """Not 'unknown profile': the file is there, beside the recipe."""
    (tmp_path / "kiosk.yaml").write_text(yaml.safe_dump(broken(**{key: None})))
    with pytest.raises(InputError, match=f"'{key}' is missing"):
        profiles.load("kiosk", tmp_path)


def test_every_shipped_figure_and_price_has_a_source():
    address = re.compile(r"https?://[^\s/]+\.[a-z]+/\S+")
    for name in SHIPPED:
        profile = profiles.load(name)
        assert profile.where == "host" or {"cpu", "memory"} <= profile.hardware.keys()
        priced = [profile.price] if profile.price else []
        for figure in [*profile.hardware.values(), *priced]:
            assert address.fullmatch(figure.source), (name, figure)


def test_unknown_name():
    with pytest.raises(InputError, match="did you mean 'phone-ios'"):
        profiles.load("phone-io")


def test_every_target_has_this_machine_as_a_profile() -> None:
    assert profiles.here("onnx").name == "host"
    assert profiles.here("browser").name == "browser"
    assert (profiles.here("coreml").target, profiles.here("coreml").where) == ("coreml", "host")
