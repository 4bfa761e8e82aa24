"""How long is a step of a model that runs on a page? Each of them in Chromium, one thread; needs a browser.

    python -m benchmarks.live_model

A step is one network call and what DDIM makes of it. The least of several rounds counts, of the processor's time and of
the clock's. The figures go to live_model.json.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from benchmarks.network_speed.summary import machine
from tests.chromium import launch

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tools"))
from export_live_model import FRACTION_BITS, exported  # noqa: E402

ENGINE = ("tables.js", "layers.js", "network.js", "samplers.js")
SCRIPTS = [ROOT / "_assets" / "live" / name for name in ENGINE]
STEPS, ROUNDS = {"digits": 50, "fashion-mnist": 10}, 10
SET_UP = """async name => {
  const network = liveNetwork(liveLayers(), liveTables()), samplers = liveSamplers();
  const model = await network.unpack(liveModels[name]);
  window.draw = steps => { for (const _ of samplers.walk(model, { seed: 1, steps })); };
}"""


def milliseconds(page: Page, steps: int) -> tuple[float, float]:
    """Of the processor and of the clock, for one step."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def used() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "ThreadTime")

    before, started = used(), time.perf_counter()
    page.evaluate("steps => draw(steps)", steps)
    return 1000 * (used() - before) / steps, 1000 * (time.perf_counter() - started) / steps


def main() -> None:
    """Measure, print, write."""
    found = {}
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = launch(playwright)
        if browser is None:
            raise SystemExit("no Chromium that starts was found")
        for name in FRACTION_BITS:
            (Path(folder) / f"{name}.js").write_text(exported(name), encoding="utf-8")
            tags = [f'<script src="{path.as_uri()}"></script>' for path in SCRIPTS]
            tags += [f'<script src="{name}.js"></script>']
            page_file = Path(folder) / f"{name}.html"
            page_file.write_text("<!doctype html><meta charset=utf-8>" + "".join(tags), encoding="utf-8")
            page = browser.new_page()
            page.goto(page_file.as_uri())
            page.evaluate(SET_UP, name)
            rounds = [milliseconds(page, STEPS[name]) for _ in range(ROUNDS)]
            found[name] = dict(zip(("processor", "clock"), map(min, *rounds), strict=True))
        version = browser.version
    report = {"machine": machine(1, "cpu"), "chromium": version, "milliseconds_of_a_step": found}
    print(json.dumps(report, indent=2))
    Path(__file__).with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
