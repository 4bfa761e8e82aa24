/* From snow to a picture in plain JavaScript, for one image: what ddpm/samplers.py does.

   A model here is what a sampler asks of one: the tables of liveTables().schedule, `size`, the count of numbers in x_t,
   and `predict`, which gives x̂_0 and the noise that goes with it, and the fraction of a learned variance if there is one;
   it is told the options of the walk. */
var liveSamplers = function () {
  "use strict";

  // Standard normal numbers from a seed: mulberry32, then Box and Muller. Other numbers than torch's for the same seed.
  function normals(seed) {
    let state = seed >>> 0, kept = null;
    const uniform = () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let z = Math.imul(state ^ (state >>> 15), 1 | state);
      z = (z + Math.imul(z ^ (z >>> 7), 61 | z)) ^ z;
      return (((z ^ (z >>> 14)) >>> 0) + 0.5) / 2 ** 32;
    };
    const next = () => {
      if (kept !== null) {
        const value = kept;
        kept = null;
        return value;
      }
      const radius = Math.sqrt(-2 * Math.log(uniform())), angle = 2 * Math.PI * uniform();
      kept = radius * Math.sin(angle);
      return radius * Math.cos(angle);
    };
    return count => Float32Array.from({ length: count }, next);
  }

  // The timesteps that a sampler visits, from T to 0.
  function grid({ timesteps, grids }, { sampler = "ddim", steps, spacing = "even" }) {
    return sampler === "ddpm" ? Array.from({ length: timesteps + 1 }, (_, i) => timesteps - i) : grids[spacing][steps];
  }

  // [t, s], [s, r], …: the steps along a grid.
  const steps = timesteps => timesteps.slice(1).map((s, i) => [timesteps[i], s]);

  // DDIM: η = 0 adds no noise, η = 1 as much as DDPM on the same timesteps (Song et al. 2021).
  function* ddim({ alphaBar, predict }, x, timesteps, normal, { eta = 0 }) {
    for (const [t, s] of steps(timesteps)) {
      const now = alphaBar[t], then = alphaBar[s];
      const { x0, noise } = predict(x, t);
      const omega = eta * Math.sqrt(((1 - then) / (1 - now)) * (1 - now / then));
      const direction = Math.sqrt(Math.max(1 - then - omega ** 2, 0));
      const fresh = omega > 0 ? normal(x.length) : null;
      x = x0.map((value, i) => Math.sqrt(then) * value + direction * noise[i] + (fresh ? omega * fresh[i] : 0));
      yield { t: s, x, x0 };
    }
  }

  // DDPM, all T steps (Ho et al. 2020, algorithm 2), with the variance that the network has learned if it has.
  function* ddpm({ alphaBar, predict }, x, timesteps, normal) {
    const beta = t => 1 - alphaBar[t] / alphaBar[t - 1];
    const left = t => (beta(t) * (1 - alphaBar[t - 1])) / (1 - alphaBar[t]);
    for (const [t, s] of steps(timesteps)) {
      const { x0, fraction } = predict(x, t);
      const divisor = 1 - alphaBar[t];
      const ofX0 = (beta(t) * Math.sqrt(alphaBar[s])) / divisor;
      const ofX = ((1 - alphaBar[s]) * Math.sqrt(1 - beta(t))) / divisor;
      const fresh = t > 1 ? normal(x.length) : null;
      const low = Math.log(left(Math.max(t, 2))), high = Math.log(beta(t));
      x = x.map((value, i) => {
        const v = fraction ? (1 + fraction[i]) / 2 : 0;
        return ofX0 * x0[i] + ofX * value + (fresh ? Math.exp((v * high + (1 - v) * low) / 2) * fresh[i] : 0);
      });
      yield { t: s, x, x0 };
    }
  }

  // DPM-Solver++(2M): x̂_0 goes on in a straight line over log SNR; the first step and the last are DDIM's (Lu et al. 2022b).
  function* dpmSolver({ alphaBar, logSnr, predict }, x, timesteps) {
    let before = null;
    for (const [t, s] of steps(timesteps)) {
      const { x0 } = predict(x, t);
      const last = before;
      const ratio = last && s > 0 ? (logSnr[s] - logSnr[t]) / (logSnr[t] - logSnr[last.t]) : 0;
      const kept = Math.sqrt((1 - alphaBar[s]) / (1 - alphaBar[t]));
      const gained = Math.sqrt(alphaBar[s]) - kept * Math.sqrt(alphaBar[t]);
      const guess = ratio ? x0.map((value, i) => value + (ratio / 2) * (value - last.x0[i])) : x0;
      x = x.map((value, i) => kept * value + gained * guess[i]);
      before = { t, x0 };
      yield { t: s, x, x0 };
    }
  }

  // The states from snow to picture, one by one; `x` in place of snow from the seed, if it is given.
  function* walk(model, { seed = 0, x, ...options }) {
    const normal = normals(seed);
    const sampler = { ddim, ddpm, "dpm++": dpmSolver }[options.sampler ?? "ddim"];
    const asked = { ...model, predict: (x, t) => model.predict(x, t, options) };
    yield* sampler(asked, x ?? normal(model.size), grid(model, options), normal, options);
  }

  return { grid, normals, walk };
};
