"""A space of the best settings that several studies found, over fresh seeds: one study, its trials share processes.

    python -m lacray.tune search_spaces/lead/lead_{scl,local}.yaml data.root=DIR --results lead
    python examples/best_over_seeds.py lead lead_scl lead_local --seeds 5 25 > lead_seeds.yaml
    python -m lacray.tune lead_seeds.yaml data.root=DIR --results lead

`python -m lacray.train --best --seeds N` trains the best of one study, with checkpoints and controls for every seed.
"""

from __future__ import annotations

import argparse
import sys

import yaml

from lacray import results
from lacray.results import Place

ITS_OWN = ("seed", "fit.evaluate_every", "data.root")
"""What a study has for its search alone, and the place of its data, which is given anew."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results")
    parser.add_argument("studies", nargs="+")
    parser.add_argument("--seeds", nargs=2, type=int, default=(5, 25), help="the first, and the one after the last")
    parser.add_argument("--name", default="lead_seeds")
    arguments = parser.parse_args()
    variants = {}
    epochs = set()
    for study in arguments.studies:
        manifest = results.read_manifest(Place(arguments.results), study)
        if manifest is None:
            parser.error(f"study {study}: has no study.json in {arguments.results}")
        space = manifest["space"]
        if space["variants"] or not space["description"] or space["description"] in variants:
            parser.error(
                f"study {study}: must have no variants, and a description of its own, by which its line is named"
            )
        best = results.best(results.read(arguments.results, study))
        keys = [key for key in (*space["fixed"], *space["search"]) if key not in ITS_OWN]
        variants[space["description"]] = {key: best[key] for key in keys}
        epochs.add(best["fit.epochs"])
    if len(epochs) > 1:
        parser.error(f"studies: must have the same fit.epochs, got {', '.join(map(str, sorted(epochs)))}")
    space = {
        "name": arguments.name,
        "description": f"The best of {len(variants)} studies over seeds",
        "sampler": "grid",
        "fixed": {"fit.evaluate_every": max(epochs), "evaluation.report_split": True},
        "search": {"seed": {"type": "categorical", "choices": list(range(*arguments.seeds))}},
        "variants": variants,
    }
    yaml.safe_dump(space, sys.stdout, sort_keys=False)


if __name__ == "__main__":
    main()
