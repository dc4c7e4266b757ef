"""A third party's exporter, found through its entry point: one matrix product, or a misbehaviour.

``options`` of the manifest's runtime say what the session does besides: touch ``megabytes``, do
``work`` products instead of one, or ``fail`` in some way.
"""

import os
import sys
import time
from typing import ClassVar

import numpy as np

from edgekd.exporter import Exporter


class ProbeSession:
    def __init__(self, bundle, runtime):
        self.kind = bundle.manifest.runtime.get("kind", "native")
        self.ask = bundle.manifest.runtime
        self.threads = runtime.threads if runtime else 1
        self.weight = np.load(bundle.path / "weight.npy")
        self.ballast = np.ones(int(self.ask.get("megabytes", 0)) * 125_000)
        if self.ask.get("fail") == "load":
            os._exit(7)

    def run(self, feeds):
        fail = self.ask.get("fail")
        if fail == "die":
            print("the probe ran out of luck", file=sys.stderr)
            os.abort()
        if fail == "hang":
            time.sleep(3600)
        if fail == "chatter":
            print("not a reply")
            os.write(1, b"nor this\n")
        value = feeds["pixel_values"].reshape(1, -1)
        for _ in range(int(self.ask.get("work", 1))):
            value = np.tanh(value @ self.weight)
        return {"logits": value[:, :2]}

    def describe(self):
        return {"runtime": "probe", "version": "1", "threads": self.threads}

    def close(self):
        self.ballast = None


class ProbeExporter(Exporter):
    name = "probe"
    tolerances: ClassVar = {"fp32": 1e-6}

    def precisions(self, spec):
        return ("fp32",)

    def write_float(self, program, spec, folder):
        raise NotImplementedError

    def write_compressed(self, bundle, plan, calibration, folder):
        raise NotImplementedError

    def groups(self, bundle):
        return []

    def inspect(self, bundle, length=None):
        ops = {"MatMul": int(bundle.manifest.runtime.get("work", 1))}
        return {"macs": 64 * 64, "ops": bundle.manifest.runtime.get("ops", ops), "length": length}

    def check(self, bundle):
        return []

    def open(self, bundle, runtime=None):
        return ProbeSession(bundle, runtime)
