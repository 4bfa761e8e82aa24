/* Numbers that the build writes for the pages, in base64: how tools/live_tables.py packs them. */
var liveTables = function () {
  "use strict";

  function bytes(base64) {
    const text = atob(base64);
    const found = new Uint8Array(text.length);
    for (let i = 0; i < found.length; i++) found[i] = text.charCodeAt(i);
    return found;
  }

  const doubles = base64 => new Float64Array(bytes(base64).buffer);
  const floats = base64 => new Float32Array(bytes(base64).buffer);

  // What a sampler needs of a schedule: tables in the paper's index, and the timesteps of every grid on offer.
  function schedule({ timesteps, alphaBar, logSnr, grids }) {
    return { timesteps, grids, alphaBar: doubles(alphaBar), logSnr: doubles(logSnr) };
  }

  return { bytes, floats, schedule };
};
