"""Serve folders on this machine's own address, isolated as WebAssembly threads need it.

    python -m edgekd_exporters.browser.serve BUNDLE

opens a bundle's page to a person. ``SharedArrayBuffer``, and threads with it, exist only in a
page that is cross-origin isolated: the COOP and COEP headers below (HTML standard, "cross-origin
isolation").
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edgekd.bundle import Bundle
from edgekd.errors import EdgekdError

_ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".png": "image/png",
}


class Server:
    """A server on a free loopback port; a context manager that stops it.

    ``mounts`` maps a path prefix that ends in ``/`` to the folder it shows; the longest match
    wins. ``sent`` counts the bytes that each path answered: a whole file, before its client can have
    read it, and where the client gave up as well.
    """

    def __init__(self, mounts: Mapping[str, Path], port: int = 0) -> None:
        self._mounts = {
            prefix: mounts[prefix].resolve() for prefix in sorted(mounts, key=len, reverse=True)
        }
        self.sent: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Address of the root, with its ``/``."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/"

    def find(self, path: str) -> Path | None:
        """The file behind a request; None where there is none, or it lies outside its mount."""
        for prefix, folder in self._mounts.items():
            if path.startswith(prefix):
                file = (folder / path.removeprefix(prefix)).resolve()
                if file.is_dir():
                    file /= "index.html"
                return file if file.is_file() and file.is_relative_to(folder) else None
        return None

    def count(self, path: str, size: int) -> None:
        """Add an answer of ``size`` bytes; each request has its own thread."""
        with self._counting:
            self.sent[path] += size

    def wait(self) -> None:
        """Serve until interrupted."""
        self._thread.join()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, server: Server, *request: object) -> None:
        self._server = server
        super().__init__(*request)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        file = self._server.find(path)
        body = file.read_bytes() if file else b"not found\n"
        self.send_response(200 if file else 404)
        suffix = file.suffix if file else ".txt"
        self.send_header("Content-Type", _TYPES.get(suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(len(body)))
        for name, value in _ISOLATION.items():
            self.send_header(name, value)
        self.end_headers()
        if file:  # before the last byte leaves: who has read it all may look at once
            self._server.count(path, len(body))
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass  # one line per request helps nobody


def main() -> None:
    from edgekd_exporters.browser.folder import copy_site, site

    parser = argparse.ArgumentParser(description="Serve a browser bundle's page on this machine.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, default=0, help="a free one by default")
    parser.add_argument("--copy", type=Path, help="write a folder for any web server instead")
    asked = parser.parse_args()
    try:
        bundle = Bundle.open(asked.bundle)
        if asked.copy:
            copy_site(bundle, asked.copy)
            print(f"{asked.copy} is complete; serve it with the headers of {Path(__file__).name}")
            return
        with Server(site(bundle), asked.port) as server:
            print(f"{server.url} (end with Ctrl-C)")
            server.wait()
    except KeyboardInterrupt:
        return
    except (EdgekdError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, EdgekdError) else 2)


if __name__ == "__main__":
    main()
