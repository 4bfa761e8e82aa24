/* The panel in which a reader draws with a model of the book: figures of class `live-model`, made by _ext/live_models.py.

   Without this script the figure is a still picture. With it, engine and model are loaded when the figure comes near the
   view, and run in a worker; nothing moves before the reader asks for it. */
(() => {
  "use strict";
  const HERE = new URL(".", document.currentScript.src).href;
  const ENGINE = ["layers", "network", "samplers"];
  // How long a path lasts, and each of its pictures at most.
  const PATH_MS = 5000, FRAME_MS = 80;
  const NAMES = { digits: "digits", "fashion-mnist": "clothes", ddim: "DDIM", ddpm: "DDPM" };
  // What a reader may choose, if the figure names it; a list is one of choices.
  const CONTROLS = {
    model: ["model", figure => figure.dataset.models.split(" ")],
    sampler: ["sampler", () => ["ddim", "ddpm"]],
    steps: ["steps", () => [5, 10, 20, 50, 100, 200]],
    eta: ["η", () => [0, 0.25, 0.5, 0.75, 1]],
    seed: ["seed", null],
  };

  // ---- scripts and the worker

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

  // The body of the worker, which gets its text from here.
  const serve = engine => {
    const session = engine.session();
    onmessage = async ({ data: [id, method, argument] }) => {
      try {
        postMessage([id, await session[method](argument)]);
      } catch (error) {
        postMessage([id, null, String(error)]);
      }
    };
  };

  // What calls a method of the engine's session and promises its answer; in the page itself where there are no workers.
  function engine() {
    let worker;
    try {
      const text = `(${serve})((${liveSamplers})((${liveNetwork})((${liveLayers})())))`;
      worker = new Worker(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
    } catch {
      const session = liveSamplers(liveNetwork(liveLayers())).session();
      return async (method, argument) => session[method](argument);
    }
    const waiting = new Map();
    let last = 0;
    worker.onmessage = ({ data: [id, answer, error] }) => {
      const { done, fail } = waiting.get(id);
      waiting.delete(id);
      if (error) fail(new Error(error));
      else done(answer);
    };
    return (method, argument) => new Promise((done, fail) => {
      waiting.set(++last, { done, fail });
      worker.postMessage([last, method, argument]);
    });
  }

  // ---- elements

  function element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  function picture(name) {
    const canvas = element("canvas", { width: 1, height: 1 });
    canvas.setAttribute("role", "img");
    const words = element("span", { textContent: name });
    words.setAttribute("aria-hidden", "true");
    return { canvas, box: element("div", {}, canvas, words), words };
  }

  // Values in [-1, 1], height × width, as grey levels; null is a picture that is not there yet.
  function draw(canvas, values, [height, width], description) {
    Object.assign(canvas, { width, height });
    canvas.setAttribute("aria-label", description);
    if (!values) return;
    const data = new ImageData(width, height);
    // A Uint8ClampedArray rounds and clips.
    values.forEach((value, i) => data.data.set([0, 1, 2].map(() => (value + 1) * 127.5), 4 * i));
    for (let i = 3; i < data.data.length; i += 4) data.data[i] = 255;
    canvas.getContext("2d").putImageData(data, 0, 0);
  }

  function control(key, figure, settings, changed) {
    const [label, choices] = CONTROLS[key];
    const options = choices?.(figure).map(value => element("option", { value, textContent: NAMES[value] ?? value }));
    const input = options ? element("select", {}, ...options)
      : element("input", { type: "number", min: 0, max: 2 ** 32 - 1, step: 1, inputMode: "numeric" });
    input.value = settings[key];
    input.name = key;
    input.dataset.lmSuppressShortcuts = "true";
    input.addEventListener("change", () => {
      if (!options) input.value = Math.min(2 ** 32 - 1, Math.max(0, Math.floor(Number(input.value)) || 0));
      settings[key] = options && Number.isNaN(Number(input.value)) ? input.value : Number(input.value);
      changed(key);
    });
    return element("label", {}, label, " ", input);
  }

  // ---- the panel

  class Panel {
    constructor(figure) {
      const { models, steps, seed, controls } = figure.dataset;
      this.settings = { model: models.split(" ")[0], sampler: "ddim", steps: Number(steps), eta: 0, seed: Number(seed) };
      this.calm = matchMedia("(prefers-reduced-motion: reduce)");
      this.left = picture("x\u209c");
      this.right = picture("x\u0302\u2080");
      const button = (name, action) => {
        const made = element("button", { type: "button", textContent: name });
        made.dataset.lmSuppressShortcuts = "true";
        made.addEventListener("click", action);
        return made;
      };
      this.play = button("Draw", () => (this.turn ? this.pause() : this.run()));
      this.once = button("One step", () => this.run(1));
      const another = button("Next seed", () => {
        this.settings.seed = (this.settings.seed + 1) % 2 ** 32;
        const input = figure.querySelector("[name=seed]");
        if (input) input.value = this.settings.seed;
        this.rest();
      });
      this.where = element("span", { className: "live-where" });
      this.said = element("span", { className: "live-said" });
      this.said.setAttribute("role", "status");
      const chosen = controls.split(" ").filter(Boolean);
      const choices = chosen.map(key => control(key, figure, this.settings, () => this.rest()));
      figure.querySelector("img").replaceWith(
        element("div", { className: "live-pictures" }, this.left.box, this.right.box),
        element("div", { className: "live-controls" }, this.play, this.once, another, ...choices),
        element("div", { className: "live-words" }, this.where, this.said),
      );
    }

    // The engine, and the model that is chosen; a second call waits for the first.
    async prepare() {
      const { model } = this.settings;
      await Promise.all(ENGINE.map(load));
      this.call ??= engine();
      await load(model);
      if (this.ready !== model) {
        await this.call("load", liveModels[model]);
        this.ready = model;
      }
    }

    // Snow of the seed, before the first call. What is still on its way belongs to another walk and is dropped.
    async rest() {
      const walk = (this.walk = {});
      this.turn = this.at = null;
      this.said.textContent = "";
      await this.attempt(async () => {
        await Promise.all([...ENGINE, this.settings.model].map(load));
        if (walk !== this.walk) return;
        const { diffusion, network } = liveModels[this.settings.model];
        const [height, width] = (this.size = diffusion.image_size);
        this.timesteps = diffusion.timesteps;
        this.calls = this.settings.sampler === "ddpm" ? this.timesteps : this.settings.steps;
        const normal = liveSamplers(null).normals(this.settings.seed);
        this.show({ t: this.timesteps, x: normal(network.channels * height * width), x0: null }, 0);
      });
    }

    show({ t, x, x0 }, calls) {
      draw(this.left.canvas, x, this.size, `The noisy picture, t = ${t} of ${this.timesteps}`);
      draw(this.right.canvas, x0, this.size,
        x0 ? `What the network takes the finished picture for, after ${calls} of ${this.calls} calls`
          : "Empty: the network has not been asked yet");
      this.where.textContent = `t = ${t}, ${calls} of ${this.calls} calls`;
      this.at = { t, calls };
      this.name();
    }

    name() {
      const rested = this.at?.t === 0 ? "Draw again" : this.at?.calls ? "Go on" : "Draw";
      this.play.textContent = this.turn ? "Pause" : rested;
    }

    // Stop, and say where: a reader who hears the page is told of this and not of every step.
    pause() {
      this.turn = null;
      this.name();
      const { t, calls } = this.at;
      this.said.textContent = t ? `Stopped at t = ${t}.` : `Drawn from seed ${this.settings.seed} in ${calls} calls.`;
    }

    // Go on for `count` calls, from snow again if the picture is finished; until another turn begins.
    async run(count = Infinity) {
      await this.attempt(async () => {
        if (!this.at?.t) await this.rest();
        if (!this.at) return;
        const turn = (this.turn = {});
        this.name();
        this.said.textContent = "";
        await this.prepare();
        for (let i = 1; turn === this.turn && this.at.t > 0; i++) {
          await this.step(i === count);
          if (turn === this.turn && (i === count || this.at.t === 0)) this.pause();
          else if (!this.calm.matches) {
            await new Promise(done => setTimeout(done, Math.min(FRAME_MS, PATH_MS / this.calls)));
          }
        }
      });
    }

    // One call. Where motion is not wanted, only the last picture of a path is shown.
    async step(last) {
      const walk = this.walk;
      if (!walk.begun) {
        walk.begun = true;
        this.call("start", { ...this.settings });
      }
      const state = await this.call("next");
      if (!state || walk !== this.walk) return;
      const calls = this.at.calls + 1;
      if (last || state.t === 0 || !this.calm.matches || !this.turn) this.show(state, calls);
      else this.at = { t: state.t, calls };
    }

    async attempt(action) {
      try {
        await action();
      } catch (error) {
        this.turn = null;
        this.name();
        this.said.textContent = this.where.textContent = `The model does not run here: ${error.message}.`;
      }
    }
  }

  function setUp(figure) {
    figure.dataset.ready = "";
    const panel = new Panel(figure);
    new IntersectionObserver((entries, observer) => {
      if (!entries.some(entry => entry.isIntersecting)) return;
      observer.disconnect();
      panel.rest();
    }, { rootMargin: "300px" }).observe(figure);
  }

  // Without these the still picture stays.
  const able = [globalThis.IntersectionObserver, globalThis.DecompressionStream, globalThis.ImageData].every(Boolean);
  if (able) document.querySelectorAll("figure.live-model:not([data-ready])").forEach(setUp);
})();
