"""The browser: folders that transformers.js loads, run by onnxruntime-web in a real Chromium.

exporter.py      the contract's face; imports nothing heavy
precisions.py    the ladder as data, and each rung's file name
folder.py        the layout: config.json and the page (pages/index.html)
figures.py       exact figures and lint
session.py       a loaded bundle in a page (pages/session.*)
second_check.py  the same folder in transformers.js (pages/transformers.*)
chromium.py      the browser process; serve.py the loopback server, and how a person opens the page
packages.py      the pinned npm packages (npm/)
"""

from edgekd_exporters.browser.exporter import BrowserExporter

__all__ = ["BrowserExporter"]
