"""Leave-one-out error of the projector over the published device table.

For every device, every model is predicted from another host's time and the ratios of the other
models: what ``edgekd bench`` does, with the published table in both places.

    python benchmarks/projection_error.py [--json projection_error.json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from edgekd.bench import projection

HOSTS = ("Azure D64s v6", "Azure D64ps v6")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    for family in ("cnn",):
        for host in HOSTS:
            errors = projection.table_errors(family, host)
            rows.append(
                {
                    "family": family,
                    "host": host,
                    "n": len(errors),
                    "median": float(np.median(errors)),
                    "p90": float(np.quantile(errors, 0.9)),
                    "within_25_percent": float(np.mean(np.array(errors) <= 1.25)),
                }
            )
    print("| family | host | n | median | p90 | within 25 % |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['family']} | {row['host']} | {row['n']} | x{row['median']:.3f} |"
            f" x{row['p90']:.3f} | {row['within_25_percent']:.0%} |"
        )
    print("| transformer | - | 0 | no published table: no projection without calibrate | | |")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
