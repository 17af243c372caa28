"""Runs as small as tests need them."""

from lacray.results import RunWriter


def row(epoch, **columns):
    named = {key.replace("__", "."): value for key, value in columns.items()}
    base = {"stage": "tune", "status": "running", "control": "none", "split": "validation", "seed": 3, "trial": 0}
    return {**base, "epoch": epoch, **named}


def run(uri, study, run_id, *rows, **kwargs):
    writer = RunWriter(str(uri), study, run_id, **kwargs)
    writer.append(rows)
    return writer
