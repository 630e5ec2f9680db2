"""The tables of docs/scaling.md that were read from the TPU's compiler hold what the file holds."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEVICES = (8, 64, 256)


def rows(results):
    """The lines of both tables."""
    cases = dict.fromkeys(tuple(name.split(", ")[:2]) for name in results)
    for case, layout in cases:
        plans = [results[f"{case}, {layout}, {devices}"] for devices in DEVICES]
        cells = [
            f"{p['wire'] / 1e6:.1f} MB, {1e3 * p['step_seconds']:.2f} ms ({p['bound']}), "
            f"{p['total'] / 1e6:.0f} MB"
            for p in plans
        ]
        yield f"| {case} | {layout} | {' | '.join(cells)} |"
    for layout in ("FSDP", "FSDP in groups"):
        for devices in DEVICES:
            plan = results[f"transformer, {layout}, {devices}"]
            textbook = 3 * (devices - 1) / devices * 4 * plan["parameters"]
            kinds = [
                f"{kind}s {found['wire'] / 1e6:.1f}"
                for kind, found in plan["collectives"].items()
                if found["wire"] >= 5e4
            ]
            yield (
                f"| {layout} | {devices} | {textbook / 1e6:.1f} MB | {plan['wire'] / 1e6:.1f} MB "
                f"({plan['wire'] / textbook:.2f}) | {', '.join(kinds)} |"
            )


def test_every_row_is_in_the_page():
    results = json.loads((ROOT / "benchmarks" / "results" / "scaling.json").read_text())
    page = (ROOT / "docs" / "scaling.md").read_text().splitlines()
    missing = [row for row in rows(results) if row not in page]
    assert not missing, "\n".join(missing)
