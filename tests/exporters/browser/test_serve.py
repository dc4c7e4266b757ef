"""The loopback server: isolation headers, types, and nothing outside its folders."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from edgekd_exporters.browser.serve import Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    for name, text in (
        ("site/index.html", "<p>hello"),
        ("site/deep/engine.mjs", "export {}"),
        ("other/engine.wasm", "\0asm"),
        ("secret.txt", "secret"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "site/link.txt").symlink_to(tmp_path / "secret.txt")
    with Server({"/": tmp_path / "site", "/runtime/": tmp_path / "other"}) as running:
        yield running


def get(server: Server, path: str) -> tuple[bytes, dict[str, str]]:
    with urllib.request.urlopen(server.url + path, timeout=10) as answer:
        return answer.read(), dict(answer.headers)


def test_pages_are_isolated_and_typed(server: Server) -> None:
    body, headers = get(server, "")
    assert body == b"<p>hello"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert get(server, "deep/engine.mjs?v=1")[1]["Content-Type"] == "text/javascript"
    assert get(server, "runtime/engine.wasm")[1]["Content-Type"] == "application/wasm"


def test_bytes_are_counted_by_path_before_the_answer_ends(server: Server) -> None:
    for asked in range(1, 101):
        get(server, "deep/engine.mjs")
        assert server.sent == {"/deep/engine.mjs": 9 * asked}


class Slow(Counter[str]):
    """Between what was counted and what is added, another answer has its time."""

    def __getitem__(self, path: str) -> int:
        found = super().__getitem__(path)
        time.sleep(0.001)
        return found


def test_answers_at_once_are_all_counted(server: Server) -> None:
    server.sent = Slow()
    with ThreadPoolExecutor(8) as askers:
        list(askers.map(lambda _: get(server, ""), range(100)))
    assert server.sent == {"/": 800}


@pytest.mark.parametrize(
    "path",
    ["absent.js", "../secret.txt", "%2e%2e/secret.txt", "runtime/..%2f..%2fsecret.txt", "link.txt"],
)
def test_nothing_outside_the_folders_is_shown(server: Server, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(server, path)
    assert refused.value.code == 404


def test_it_listens_on_this_machine_alone(server: Server) -> None:
    assert server.url.startswith("http://127.0.0.1:")
