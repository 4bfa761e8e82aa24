"""The exact denoiser that runs on a page, against that of the package."""

import pytest
from export_live_model import snow
from live_tables import MIXTURES, mixture_schedule

from ddpm import GaussianMixtureOracle
from ddpm.prediction import full_timesteps
from ddpm.samplers import ancestral, ddim, dpm_solver_pp
from tests.browser.test_live_model import Fresh, farthest, states_of

COUNT = 40
SET_UP = """([name, count]) => {
  const { density, model, noisy } = liveMixture(), samplers = liveSamplers();
  const bumps = liveMixtureTables.presets[name], schedule = liveTables().schedule(liveMixtureTables.schedule);
  const moved = model(bumps, schedule, count);
  window.predict = (x, t) => Object.values(moved.predict(Float32Array.from(x), t)).slice(0, 2).map(one => [...one]);
  window.densities = (x, t) => {
    const parts = noisy(bumps, schedule.alphaBar[t]);
    return Array.from({ length: count }, (_, i) => density(parts, x[2 * i], x[2 * i + 1]));
  };
  window.path = (options, timesteps = moved.timesteps) =>
    [...samplers.walk({ ...moved, timesteps }, options)].map(({ t, x, x0 }) => [t, [...x], [...x0]]);
}"""


@pytest.fixture(scope="module")
def page(folder, chromium):
    """A page that has the scripts of the exact denoiser."""
    names = ("tables", "samplers", "mixture", "mixture-tables")
    tags = "".join(f'<script src="{name}.js"></script>' for name in names)
    (folder / "exact.html").write_text(f"<!doctype html><meta charset=utf-8>{tags}", encoding="utf-8")
    page = chromium.new_page()
    page.goto((folder / "exact.html").as_uri())
    yield page
    page.close()


@pytest.fixture(params=list(MIXTURES))
def mixture(request, page):
    """The page with one of the distributions ready, and the package's denoiser of it."""
    page.evaluate(SET_UP, [request.param, COUNT])
    means, variances = MIXTURES[request.param]
    return page, GaussianMixtureOracle(mixture_schedule(), means, variances)


@pytest.mark.parametrize("t", [1, 30, 400, 1000])
def test_denoiser_and_density_are_those_of_the_package(mixture, t):
    page, oracle = mixture
    x = 1.5 * snow(t, (COUNT, 1, 1, 2)).double()
    at = full_timesteps(t, x)
    expected = oracle.predict(x, at)
    x0, noise = page.evaluate("([x, t]) => predict(x, t)", [x.flatten().tolist(), t])
    assert x0 == pytest.approx(expected.x0.flatten().tolist(), abs=1e-5)
    # Divided by σ_1 = 0.006, float32 is seen.
    assert noise == pytest.approx(expected.noise.flatten().tolist(), abs=1e-3 if t == 1 else 1e-5)
    density = page.evaluate("([x, t]) => densities(x, t)", [x.flatten().tolist(), t])
    assert density == pytest.approx(oracle.log_density(x, at).exp().tolist(), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("options", [{}, {"eta": 0.5}, {"sampler": "dpm++", "spacing": "log-snr"}])
def test_points_walk_as_in_the_package(mixture, options, monkeypatch):
    page, oracle = mixture
    steps, spacing = 20, options.get("spacing", "even")
    monkeypatch.setattr("ddpm.samplers.randn_like", Fresh(9, (COUNT, 1, 1, 2)))
    path = page.evaluate("path", {"seed": 9, "steps": steps, **options})
    x, given = snow(9, (COUNT, 1, 1, 2)), {"spacing": spacing, "clip_x0": False}
    if options.get("sampler"):
        walk = dpm_solver_pp(oracle, x, steps, **given)
    else:
        walk = ddim(oracle, x, steps, eta=options.get("eta", 0.0), **given)
    assert farthest(path, states_of(walk, steps)) < 1e-4


@pytest.mark.parametrize("start", [1000, 6])
def test_points_walk_with_ddpm(page, start, monkeypatch):
    """Six steps, the first and the last of the chain."""
    page.evaluate(SET_UP, ["ring", COUNT])
    oracle, x = GaussianMixtureOracle(mixture_schedule(), *MIXTURES["ring"]), snow(9, (COUNT, 1, 1, 2))
    monkeypatch.setattr("ddpm.reverse_process.randn_like", Fresh(9, (COUNT, 1, 1, 2)))
    path = page.evaluate("start => path({ seed: 9, sampler: 'ddpm' }, start).slice(0, 6)", start)
    assert farthest(path, states_of(ancestral(oracle, x, clip_x0=False, start=start), 6)) < 1e-4
