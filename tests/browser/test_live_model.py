"""The network that runs on a page, against PyTorch on the same weights."""

import math
import re
from copy import deepcopy
from typing import get_args

import pytest
import torch
from book_numbers import ROOT
from export_live_model import FRACTION_BITS, live_model, snow
from live_tables import TABLES

from ddpm import ClassifierFreeGuidance, load_pretrained
from ddpm.grids import Spacing
from ddpm.samplers import ancestral, ddim, dpm_solver_pp

LIVE = ROOT / "_assets" / "live"
ENGINE = ("tables.js", "layers.js", "network.js", "samplers.js")
# A grey level of 8 bits in [-1, 1], and the bytes that a panel may load.
GREY, HEAVIEST = 2 / 255, 1_500_000
MODELS = list(FRACTION_BITS)
# No address: the name of a namespace, which nobody asks for.
SVG = "http://www.w3.org/2000/svg"

SET_UP = """async name => {
  const network = liveNetwork(liveLayers(), liveTables()), samplers = liveSamplers();
  const model = await network.unpack(liveModels[name]), size = liveModels[name].diffusion.image_size;
  window.forward = (x, t) => [...model.network.forward(Float32Array.from(x), t, size)];
  window.snow = (seed, count) => [...samplers.normals(seed)(count)];
  window.path = (options, most, timesteps = model.timesteps) => {
    const states = [];
    for (const { t, x, x0 } of samplers.walk({ ...model, timesteps }, options)) {
      states.push([t, [...x], [...x0]]);
      if (states.length === most) break;
    }
    return states;
  };
}"""


@pytest.fixture(scope="module")
def engine(folder):
    """A page beside the scripts of the engine and the models, which loads them as a page of the book does."""
    scripts = (*ENGINE, *(f"{name}.js" for name in MODELS))
    tags = "".join(f'<script src="{script}"></script>' for script in scripts)
    (folder / "engine.html").write_text(f"<!doctype html><meta charset=utf-8>{tags}", encoding="utf-8")
    return (folder / "engine.html").as_uri()


@pytest.fixture(scope="module", params=MODELS)
def live(request, engine, chromium):
    """A page opened from the disk in which one model is ready, and the model in PyTorch."""
    page = chromium.new_page()
    page.goto(engine)
    page.evaluate(SET_UP, request.param)
    yield request.param, page, live_model(request.param)
    page.close()


def states_of(walk, most):
    """The first states of a sampler of the package, each (t, x, x0)."""
    return [
        (state.t, state.x.flatten(), state.x0.flatten()) for state, _ in zip(walk, range(most), strict=False)
    ]


def farthest(page_states, states):
    """The largest difference anywhere on two paths through the same timesteps."""
    assert [t for t, *_ in page_states] == [t for t, *_ in states]
    theirs = torch.tensor([list(maps) for _, *maps in page_states], dtype=torch.float64)
    ours = torch.stack([torch.stack(maps) for _, *maps in states])
    # What is not finite is no small difference.
    return (theirs - ours).abs().nan_to_num(nan=math.inf).max().item()


@pytest.mark.parametrize("t", [1, 137, 1000])
def test_network_gives_what_torch_gives(live, t):
    """In double precision, whose rounding is not seen: ε of the normalisation ten times as large would be."""
    _, page, diffusion = live
    x = snow(t, (1, *diffusion.image_shape))
    with torch.no_grad():
        expected = deepcopy(diffusion.network).double()(x.double(), torch.tensor([t])).flatten()
    output = torch.tensor(page.evaluate("([x, t]) => forward(x, t)", [x.flatten().tolist(), t]))
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=1e-5)
    assert expected.abs().max() > 0.5


def test_ddim_walks_as_in_torch(live):
    """A whole path, from the snow of a seed that both draw for themselves, to one grey level everywhere."""
    _, page, diffusion = live
    steps = 20
    x = snow(3, (1, *diffusion.image_shape))
    assert page.evaluate("n => snow(3, n)", x.numel()) == pytest.approx(x.flatten().tolist(), abs=1e-6)
    path = page.evaluate("steps => path({ seed: 3, steps })", steps)
    assert path[-1][0] == 0
    assert farthest(path, states_of(ddim(diffusion, x, steps), steps)) < GREY


class Fresh:
    """Hands the samplers of the package the numbers that the page draws after its snow."""

    def __init__(self, seed, shape):
        self.seed, self.shape, self.drawn = seed, shape, 0

    def __call__(self, like, _generator):
        self.drawn += like.numel()
        numbers = snow(self.seed, (self.drawn + like.numel(),))
        return numbers[self.drawn :].view_as(like)


def test_ddim_with_noise_walks_as_in_torch(live, monkeypatch):
    """η = 0.7 in ten steps."""
    _, page, diffusion = live
    shape, steps = (1, *diffusion.image_shape), 10
    monkeypatch.setattr("ddpm.samplers.randn_like", Fresh(5, shape))
    path = page.evaluate("options => path(options)", {"seed": 5, "steps": steps, "eta": 0.7})
    assert farthest(path, states_of(ddim(diffusion, snow(5, shape), steps, eta=0.7), steps)) < 1e-4


@pytest.mark.parametrize("spacing", get_args(Spacing))
@pytest.mark.parametrize(("sampler", "walk"), [("ddim", ddim), ("dpm++", dpm_solver_pp)])
def test_samplers_walk_as_in_torch_on_each_grid(live, sampler, walk, spacing):
    """Five steps, the first and the last of them of the first order for DPM++."""
    name, page, diffusion = live
    steps = 5
    path = page.evaluate("path", {"seed": 4, "sampler": sampler, "steps": steps, "spacing": spacing})
    states = states_of(walk(diffusion, snow(4, (1, *diffusion.image_shape)), steps, spacing=spacing), steps)
    assert farthest(path, states) < 1e-4, name


@pytest.mark.parametrize("live", ["fashion-mnist-classes"], indirect=True)
@pytest.mark.parametrize("scale", [0, 1, 3])
def test_guided_network_walks_as_in_torch(live, scale):
    """Five steps of DDIM towards class 7, w = 0 without any class."""
    _, page, diffusion = live
    x, labels = snow(6, (1, *diffusion.image_shape)), torch.tensor([7])
    path = page.evaluate("path", {"seed": 6, "steps": 5, "label": 7, "guidance": scale})
    walk = ddim(ClassifierFreeGuidance(diffusion, scale), x, 5, labels=labels)
    assert farthest(path, states_of(walk, 5)) < 1e-4


@pytest.mark.parametrize("live", ["fashion-mnist-classes"], indirect=True)
def test_guided_network_keeps_the_variance_of_its_class(live, monkeypatch):
    """The first six steps of DDPM."""
    _, page, diffusion = live
    shape, labels = (1, *diffusion.image_shape), torch.tensor([2])
    monkeypatch.setattr("ddpm.reverse_process.randn_like", Fresh(5, shape))
    path = page.evaluate("path({ seed: 5, sampler: 'ddpm', label: 2, guidance: 3 }, 6)")
    walk = ancestral(ClassifierFreeGuidance(diffusion, 3), snow(5, shape), labels=labels)
    assert farthest(path, states_of(walk, 6)) < 1e-4


@pytest.mark.parametrize("start", [1000, 6])
def test_ddpm_walks_as_in_torch(live, start, monkeypatch):
    """Six steps, the first and the last; one of the two networks has learned their variance."""
    _, page, diffusion = live
    shape = (1, *diffusion.image_shape)
    monkeypatch.setattr("ddpm.reverse_process.randn_like", Fresh(5, shape))
    path = page.evaluate("start => path({ seed: 5, sampler: 'ddpm' }, 6, start)", start)
    assert farthest(path, states_of(ancestral(diffusion, snow(5, shape), start=start), 6)) < 1e-4


def test_last_step_of_ddpm_adds_no_noise(live):
    """Of a chain of four steps, the first of the schedule."""
    _, page, _ = live
    *_, (t, x, x0) = page.evaluate("path({ seed: 1, sampler: 'ddpm' }, 4, 4)")
    assert (t, x) == (0, pytest.approx(x0, abs=1e-6))


@pytest.mark.parametrize("name", MODELS)
def test_rounding_of_the_weights_is_not_seen(name):
    """Two grey levels at the end of a path: the digits keep float16, the other network two bits fewer."""
    diffusion, shipped = live_model(name), load_pretrained(name).eval()
    x = snow(1, (1, *diffusion.image_shape))
    *_, last = ddim(diffusion, x, 20)
    *_, other = ddim(shipped, x, 20)
    assert (last.x - other.x).abs().max() < 2 * GREY


@pytest.mark.parametrize("name", [*MODELS, *TABLES])
def test_panel_is_light(name, folder):
    """Every script and sheet there is, and a model or the tables of an exact panel."""
    scripts = [*LIVE.glob("*.*"), folder / f"{name}.js"]
    assert sum(script.stat().st_size for script in scripts) < HEAVIEST


def test_scripts_name_no_address():
    texts = {path.name: path.read_text(encoding="utf-8").replace(SVG, "") for path in LIVE.glob("*.*")}
    assert not [name for name, text in texts.items() if re.search(r"https?://|\bfetch\(|\bimport\b", text)]
