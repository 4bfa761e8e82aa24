/* From snow to a picture in plain JavaScript, for one image: what ddpm/prediction.py and ddpm/samplers.py do. */
var liveSamplers = function (network) {
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

  // What the network sees in x_t: x̂_0 clipped, the noise that goes with it, and the second head if it has one.
  function predict({ network, diffusion, alphaBar }, x, t) {
    const signal = Math.sqrt(alphaBar[t]), sigma = Math.sqrt(1 - alphaBar[t]);
    const output = network.forward(x, t, diffusion.image_size);
    const x0 = x.map((value, i) => {
      const raw = { pred_v: signal * value - sigma * output[i], pred_noise: (value - sigma * output[i]) / signal,
        pred_x0: output[i], pred_flow: (value - sigma * output[i]) / (signal + sigma) }[diffusion.objective];
      return Math.min(1, Math.max(-1, raw));
    });
    const noise = x.map((value, i) => (value - signal * x0[i]) / sigma);
    return { x0, noise, fraction: output.length > x.length ? output.subarray(x.length) : null };
  }

  // DDIM on timesteps even in t; η = 0 adds no noise, η = 1 as much as DDPM (Song et al. 2021).
  function* ddim(model, x, { steps, eta = 0 }, normal) {
    const T = model.diffusion.timesteps;
    for (let left = steps; left > 0; left--) {
      const t = Math.floor((T * left) / steps), s = Math.floor((T * (left - 1)) / steps);
      const now = model.alphaBar[t], then = model.alphaBar[s];
      const { x0, noise } = predict(model, x, t);
      const omega = eta * Math.sqrt(((1 - then) / (1 - now)) * (1 - now / then));
      const direction = Math.sqrt(Math.max(1 - then - omega ** 2, 0));
      const fresh = omega > 0 ? normal(x.length) : null;
      x = x0.map((value, i) => Math.sqrt(then) * value + direction * noise[i] + (fresh ? omega * fresh[i] : 0));
      yield { t: s, x, x0 };
    }
  }

  // DDPM, all T steps (Ho et al. 2020, algorithm 2), with the variance that the network has learned if it has.
  function* ddpm(model, x, _options, normal) {
    const { alphaBar, diffusion: { timesteps } } = model;
    const beta = t => 1 - alphaBar[t] / alphaBar[t - 1];
    const left = t => (beta(t) * (1 - alphaBar[t - 1])) / (1 - alphaBar[t]);
    for (let t = timesteps; t > 0; t--) {
      const { x0, fraction } = predict(model, x, t);
      const divisor = 1 - alphaBar[t];
      const ofX0 = (beta(t) * Math.sqrt(alphaBar[t - 1])) / divisor;
      const ofX = ((1 - alphaBar[t - 1]) * Math.sqrt(1 - beta(t))) / divisor;
      const fresh = t > 1 ? normal(x.length) : null;
      const low = Math.log(left(Math.max(t, 2))), high = Math.log(beta(t));
      x = x.map((value, i) => {
        const v = fraction ? (1 + fraction[i]) / 2 : 0;
        return ofX0 * x0[i] + ofX * value + (fresh ? Math.exp((v * high + (1 - v) * low) / 2) * fresh[i] : 0);
      });
      yield { t: t - 1, x, x0 };
    }
  }

  // The states from snow to picture, one by one; `x` in place of snow from the seed, if it is given.
  function* walk(model, { seed = 0, sampler = "ddim", x, ...options }) {
    const normal = normals(seed);
    const [height, width] = model.diffusion.image_size;
    const start = x ?? normal(model.network.config.channels * height * width);
    yield* { ddim, ddpm }[sampler](model, start, options, normal);
  }

  // What a worker answers to: load a model, start a walk, take its next step.
  function session() {
    let model = null, states = null;
    return {
      async load(packedModel) { model = await network.unpack(packedModel); },
      start(options) { states = walk(model, options); },
      next() { return states.next().value ?? null; },
    };
  }

  return { normals, predict, session, walk };
};
