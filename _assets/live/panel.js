/* The panels in which a reader moves what a chapter speaks of: figures of class `live-model`, made by _ext/live_models.py.

   Without this script the figure is a still picture. With it, the scripts of its kind are loaded when the figure comes near
   the view; nothing moves before the reader asks for it. This file has what the kinds share, and begins. */
// Each panel of a page brings this script along; only the first time is it more than a call of `begin`.
var livePanels = globalThis.livePanels ?? (() => {
  "use strict";
  const HERE = new URL(".", document.currentScript.src).href;
  // The scripts of each kind of panel; the last one puts a function that makes the panel into `make`.
  const KINDS = {
    draw: ["tables", "layers", "network", "samplers", "worker", "draw-panel"],
    mixture: ["tables", "samplers", "mixture", "mixture-tables", "mixture-panel"],
    schedule: ["tables", "samplers", "schedule-tables", "schedule-panel"],
  };
  const make = {};
  // How long a path lasts, and each of its pictures at most.
  const PATH_MS = 5000, FRAME_MS = 80;
  const NAMES = { "fashion-mnist": "clothes", ddim: "DDIM", ddpm: "DDPM", "dpm++": "DPM++", "": "nothing" };
  // What a reader may choose of a walk: its name, and the choices; a seed is typed.
  const SAMPLERS = ["ddpm", "ddim", "dpm++"];
  const CONTROLS = {
    sampler: ["sampler", SAMPLERS],
    beside: ["beside it", ["", ...SAMPLERS]],
    steps: ["steps", [5, 10, 20, 50, 100, 200]],
    spacing: ["grid", ["even", "quadratic", "log-snr", "karras"]],
    eta: ["η", [0, 0.25, 0.5, 0.75, 1]],
    seed: ["seed", null],
  };

  // ---- scripts

  const loaded = new Map();

  // Classic scripts, in order: a page opened from the disk may load these and nothing else.
  function load(name) {
    if (!loaded.has(name)) {
      loaded.set(name, new Promise((done, fail) => {
        const script = document.createElement("script");
        script.src = `${HERE}${name}.js`;
        script.async = false;
        script.onload = done;
        script.onerror = () => {
          loaded.delete(name);
          fail(new Error(`${name}.js cannot be loaded`));
        };
        document.head.append(script);
      }));
    }
    return loaded.get(name);
  }

  // ---- elements

  function element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  function drawing(tag, attributes, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  function button(name, action) {
    const made = element("button", { type: "button", textContent: name });
    made.dataset.lmSuppressShortcuts = "true";
    made.addEventListener("click", action);
    return made;
  }

  // A canvas with words below it, which a reader who hears the page is told in another way.
  function picture(name) {
    const canvas = element("canvas", { width: 1, height: 1 });
    canvas.setAttribute("role", "img");
    const words = element("span", { textContent: name });
    words.setAttribute("aria-hidden", "true");
    return { canvas, box: element("div", {}, canvas, words) };
  }

  // One row of values in [-1, 1] for each channel, height × width; one channel is grey. null is a picture to come.
  function draw(canvas, values, [height, width], description) {
    Object.assign(canvas, { width, height });
    canvas.setAttribute("aria-label", description);
    if (!values) return;
    const pixels = height * width, channels = values.length / pixels;
    const image = new ImageData(width, height);
    // A Uint8ClampedArray rounds and clips.
    for (let i = 0; i < pixels; i++) {
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = (values[(c % channels) * pixels + i] + 1) * 127.5;
      image.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  // A choice or, where `choices` is null, a whole number of 32 bits, which changes `settings[key]`.
  function control(key, [label, choices, names = NAMES], settings, changed) {
    const options = choices?.map(value => element("option", { value, textContent: names[value] ?? value }));
    const input = options ? element("select", {}, ...options)
      : element("input", { type: "number", min: 0, max: 2 ** 32 - 1, step: 1, inputMode: "numeric" });
    input.value = settings[key];
    input.name = key;
    input.dataset.lmSuppressShortcuts = "true";
    input.addEventListener("change", () => {
      if (!options) input.value = Math.min(2 ** 32 - 1, Math.max(0, Math.floor(Number(input.value)) || 0));
      settings[key] = choices ? choices[input.selectedIndex] : Number(input.value);
      changed(key);
    });
    return element("label", {}, label, " ", input);
  }

  // ---- what walks from snow to a picture, under buttons

  /* A kind of panel gives: `begin(walk)`, which shows the snow and sets `t` to T; `prepare()`, before the first step;
     `advance(walk)`, one step, after which `t` is lower and `calls` higher; `show()`; `total`, the steps of a whole walk;
     `report()`, what a reader who hears the page is told at the end. What comes too late, when `walk` is no longer
     `this.walk`, changes nothing. */
  class Player {
    constructor(figure, { verb, own = {}, settings, shows }) {
      const { controls, steps, seed, sampler, beside } = figure.dataset;
      Object.assign(this, { figure, verb, t: null, calls: 0, turn: null });
      this.settings = { sampler, beside, steps: Number(steps), spacing: "even", eta: 0, seed: Number(seed), ...settings };
      this.calm = matchMedia("(prefers-reduced-motion: reduce)");
      this.play = button(verb, () => (this.turn ? this.pause() : this.run()));
      const another = button("Next seed", () => {
        this.settings.seed = (this.settings.seed + 1) % 2 ** 32;
        const input = figure.querySelector("[name=seed]");
        if (input) input.value = this.settings.seed;
        this.rest();
      });
      this.said = element("span", { className: "live-said" });
      this.said.setAttribute("role", "status");
      const known = { ...CONTROLS, ...own };
      const chosen = controls.split(" ").filter(Boolean).map(key =>
        control(key, known[key], this.settings, () => this.rest()));
      this.buttons = element("div", { className: "live-controls" },
        this.play, button("One step", () => this.run(1)), another);
      figure.querySelector("img").replaceWith(shows, this.buttons,
        element("div", { className: "live-controls" }, ...chosen), this.said);
    }

    // Choices that change nothing now cannot be made.
    allow(key, possible) {
      const input = this.figure.querySelector(`[name=${key}]`);
      if (input) input.disabled = !possible;
    }

    // Snow of the seed, before the first call. What is still on its way belongs to another walk and is dropped.
    async rest() {
      const walk = (this.walk = {});
      const samplers = [this.settings.sampler, this.settings.beside].filter(Boolean);
      this.turn = this.t = null;
      this.calls = 0;
      this.said.textContent = "";
      this.allow("steps", samplers.some(name => name !== "ddpm"));
      this.allow("spacing", samplers.some(name => name !== "ddpm"));
      this.allow("eta", samplers.includes("ddim"));
      await this.attempt(() => this.begin(walk));
      this.name();
    }

    name() {
      this.play.textContent = this.turn ? "Pause" : this.t === 0 ? `${this.verb} again` : this.calls ? "Go on" : this.verb;
    }

    pause() {
      this.turn = null;
      this.name();
    }

    // Go on for `count` steps, from snow again if the walk is finished; until another turn begins, or none.
    async run(count = Infinity) {
      const before = this.running;
      this.turn = null;
      await (this.running = this.attempt(async () => {
        await before;
        if (!this.t) await this.rest();
        if (!this.t) return;
        const turn = (this.turn = {}), walk = this.walk;
        this.name();
        this.said.textContent = "";
        await this.prepare();
        for (let i = 1; turn === this.turn && this.t > 0 && i <= count; i++) {
          await this.step(i === count);
          if (this.t > 0 && i < count && !this.calm.matches) {
            await new Promise(done => setTimeout(done, Math.min(FRAME_MS, PATH_MS / this.total)));
          }
        }
        if (walk === this.walk) this.stop();
      }));
    }

    // One step. Where motion is not wanted, only the last picture of a path is shown.
    async step(last) {
      const walk = this.walk;
      await this.advance(walk);
      if (walk === this.walk && (last || this.t === 0 || !this.calm.matches || !this.turn)) this.show();
    }

    // Say where: a reader who hears the page is told of this and not of every step.
    stop() {
      this.pause();
      this.said.textContent = this.t ? `Stopped at t = ${this.t}.` : this.report();
    }

    async attempt(action) {
      try {
        await action();
      } catch (error) {
        this.pause();
        fail(this.figure, error);
      }
    }
  }

  function fail(figure, error) {
    const words = figure.querySelector(".live-where");
    const text = `The panel does not run here: ${error.message}.`;
    if (words) words.textContent = text;
    else figure.querySelector("img").after(element("p", { className: "live-where", textContent: text }));
  }

  // ---- the beginning

  function setUp(figure) {
    figure.dataset.ready = "";
    new IntersectionObserver(async (entries, observer) => {
      if (!entries.some(entry => entry.isIntersecting)) return;
      observer.disconnect();
      const { panel } = figure.dataset;
      try {
        await Promise.all(KINDS[panel].map(load));
        make[panel](figure);
      } catch (error) {
        fail(figure, error);
      }
    }, { rootMargin: "300px" }).observe(figure);
  }

  // The figures that stand above; without what is named here they stay still pictures.
  function begin() {
    const able = [globalThis.IntersectionObserver, globalThis.DecompressionStream, globalThis.ImageData].every(Boolean);
    if (able) document.querySelectorAll("figure.live-model:not([data-ready])").forEach(setUp);
  }

  return { NAMES, Player, begin, button, control, draw, drawing, element, load, make, picture };
})();
livePanels.begin();
