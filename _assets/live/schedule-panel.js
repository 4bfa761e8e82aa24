/* The panel for schedules: log SNR over t, and what a photograph looks like at the level that is chosen. */
(() => {
  "use strict";
  const { control, draw, drawing, element, make, picture } = livePanels;
  const { schedules, photograph } = liveScheduleTables;
  const { bytes, floats } = liveTables();
  // The drawing: its size, the frame inside, and the log SNR at the frame's lower and upper edge.
  const WIDTH = 320, HEIGHT = 200, LEFT = 38, RIGHT = 10, TOP = 8, BOTTOM = 34, LOWEST = -21, HIGHEST = 11;
  const NOISE_SEED = 1;

  const across = share => LEFT + share * (WIDTH - LEFT - RIGHT);
  const down = logSnr => TOP + ((HIGHEST - logSnr) / (HIGHEST - LOWEST)) * (HEIGHT - TOP - BOTTOM);

  const text = (words, x, y, anchor) => drawing("text", { x, y, "text-anchor": anchor }, words);

  // Of one schedule and length: log SNR, √ᾱ and σ for t = 0 … T.
  function tables(name, timesteps) {
    const packed = schedules[name][timesteps];
    return { logSnr: floats(packed.logSnr), signal: floats(packed.signal), sigma: floats(packed.sigma) };
  }

  // The line of log SNR, from t = 1 on: at t = 0 it is infinite.
  function curve({ logSnr }) {
    const timesteps = logSnr.length - 1, points = [];
    for (let t = 1; t <= timesteps; t++) points.push(`${across(t / timesteps).toFixed(2)} ${down(logSnr[t]).toFixed(2)}`);
    return `M${points.join("L")}`;
  }

  function frame() {
    const made = [];
    for (const value of [-20, -10, 0, 10]) {
      made.push(drawing("path", { d: `M${across(0)} ${down(value)}H${across(1)}`, class: "live-rule" }),
        text(`${value}`.replace("-", "−"), LEFT - 5, down(value) + 4, "end"));
    }
    for (const share of [0, 0.5, 1]) made.push(text(`${share}`, across(share), HEIGHT - BOTTOM + 14, "middle"));
    // The name of the height stands at the upper right: all lines fall from the left.
    return [...made, text("t/T", across(0.5), HEIGHT - 4, "middle"), text("log SNR", across(0.99), down(10) + 14, "end")];
  }

  class SchedulePanel {
    constructor(figure) {
      const names = Object.keys(schedules), lengths = Object.keys(schedules[names[0]]).map(Number);
      const { schedule = names[0] } = figure.dataset;
      this.settings = { schedule, timesteps: lengths.at(-1) };
      this.clean = Float32Array.from(bytes(photograph.pixels), value => value / 127.5 - 1);
      this.noise = liveSamplers().normals(NOISE_SEED)(this.clean.length);
      this.chart = drawing("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "live-chart", role: "img" });
      this.picture = picture("x\u209c");
      this.where = element("div", { className: "live-where" });
      this.slider = element("input", { type: "range", min: 0, step: 1, name: "t", max: lengths.at(-1) });
      this.slider.value = Math.round(0.3 * lengths.at(-1));
      this.slider.dataset.lmSuppressShortcuts = "true";
      this.slider.addEventListener("input", () => this.show());
      const choose = (key, words, choices) => control(key, [words, choices], this.settings, () => this.choose());
      figure.querySelector("img").replaceWith(
        element("div", { className: "live-level" }, this.chart, this.picture.box),
        element("div", { className: "live-controls" }, choose("schedule", "schedule", names),
          choose("timesteps", "T", lengths), element("label", { className: "live-slider" }, "t ", this.slider)),
        this.where,
      );
      this.choose();
    }

    // Another schedule or length; the slider stays at the same share of T.
    choose() {
      const { schedule, timesteps } = this.settings, share = this.slider.value / this.slider.max;
      this.slider.max = timesteps;
      this.slider.value = Math.round(share * timesteps);
      this.tables = tables(schedule, timesteps);
      const others = Object.keys(schedules).filter(name => name !== schedule);
      const line = (name, kind) => drawing("path", { d: curve(tables(name, timesteps)), class: kind });
      this.dot = drawing("circle", { r: 5, class: "live-dot" });
      this.chart.replaceChildren(...frame(), ...others.map(name => line(name, "live-other")),
        line(schedule, "live-chosen"), this.dot);
      this.show();
    }

    show() {
      const { schedule, timesteps } = this.settings, t = Number(this.slider.value);
      const logSnr = this.tables.logSnr[t], signal = this.tables.signal[t], sigma = this.tables.sigma[t];
      this.dot.setAttribute("cx", across(t / timesteps));
      this.dot.setAttribute("cy", down(Math.min(logSnr, HIGHEST)));
      const number = logSnr === Infinity ? "∞" : logSnr.toFixed(1).replace("-", "−");
      const words = `t = ${t} of ${timesteps}: λ = ${number}, √ᾱ = ${signal.toFixed(3)}, σ = ${sigma.toFixed(3)}`;
      this.where.textContent = words;
      this.slider.setAttribute("aria-valuetext", words);
      this.chart.setAttribute("aria-label", `log SNR over t/T, ${schedule}, with a dot at ${words}`);
      const noisy = this.clean.map((value, i) => signal * value + sigma * this.noise[i]);
      draw(this.picture.canvas, noisy, photograph.size, `The cat at t = ${t} of ${timesteps}`);
    }
  }

  make.schedule = figure => new SchedulePanel(figure);
})();
