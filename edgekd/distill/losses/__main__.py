"""``python -m edgekd.distill.losses``: the losses and their laws."""

from edgekd.distill.losses.registry import table

if __name__ == "__main__":
    print(table())
