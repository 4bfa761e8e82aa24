/* The exact denoiser of a mixture of round bumps in the plane, all of one weight: what ddpm/mixture_oracle.py computes.

   Noise makes of a bump N(μ, v I) the bump N(√ᾱ μ, (ᾱ v + 1 − ᾱ) I). The numbers of several points stand one after the
   other: first point, x and y, second point, x and y. */
var liveMixture = function () {
  "use strict";

  // The bumps of q(x_t): where each stands, how wide it is, and the factor before its exponential.
  function noisy(bumps, alphaBar) {
    const signal = Math.sqrt(alphaBar);
    return bumps.map(({ mean: [x, y], variance }) => {
      const width = alphaBar * variance + 1 - alphaBar;
      return { x: signal * x, y: signal * y, width, height: 1 / (2 * Math.PI * width * bumps.length),
        pull: (signal * variance) / width };
    });
  }

  // log of each bump's part in q(x_t) at one point.
  const logParts = (parts, x, y) => parts.map(part =>
    Math.log(part.height) - ((x - part.x) ** 2 + (y - part.y) ** 2) / (2 * part.width));

  // q(x_t) at one point.
  const density = (parts, x, y) => logParts(parts, x, y).reduce((sum, log) => sum + Math.exp(log), 0);

  // E[x_0 | x_t] of one point: what each bump would say, in the shares in which the point may come from it.
  function expected(bumps, parts, x, y) {
    const logs = logParts(parts, x, y), highest = Math.max(...logs);
    let total = 0, ofX = 0, ofY = 0;
    parts.forEach((part, k) => {
      const share = Math.exp(logs[k] - highest);
      total += share;
      ofX += share * (bumps[k].mean[0] + part.pull * (x - part.x));
      ofY += share * (bumps[k].mean[1] + part.pull * (y - part.y));
    });
    return [ofX / total, ofY / total];
  }

  // A model for the samplers, which moves `count` points at once.
  function model(bumps, schedule, count) {
    const predict = (x, t) => {
      const alphaBar = schedule.alphaBar[t], parts = noisy(bumps, alphaBar);
      const signal = Math.sqrt(alphaBar), sigma = Math.sqrt(1 - alphaBar);
      const x0 = new Float32Array(x.length);
      for (let i = 0; i < x.length; i += 2) x0.set(expected(bumps, parts, x[i], x[i + 1]), i);
      return { x0, noise: x.map((value, i) => (value - signal * x0[i]) / sigma), fraction: null };
    };
    return { ...schedule, size: 2 * count, predict };
  }

  return { density, model, noisy };
};
