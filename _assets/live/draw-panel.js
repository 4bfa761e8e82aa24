/* The panel in which a reader draws with a shipped network: one lane, or two samplers side by side from the same snow. */
(() => {
  "use strict";
  const { NAMES, Player, draw, drawing, element, load, make, picture } = livePanels;
  const { grid, normals } = liveSamplers();
  const SCALES = [0, 1, 2, 3, 5, 8];

  // x_t and x̂_0 of one sampler, where it stands, and the timesteps at which it asks the network.
  class Lane {
    constructor() {
      this.left = picture("x\u209c");
      this.right = picture("x\u0302\u2080");
      this.title = element("div", { className: "live-title" });
      this.where = element("div", { className: "live-where" });
      this.marks = drawing("path", {});
      this.hand = drawing("path", { d: "M0 0v10", class: "live-hand" });
      this.ticks = drawing("svg", { viewBox: "0 0 1000 10", preserveAspectRatio: "none", class: "live-ticks",
        "aria-hidden": "true" }, this.marks, this.hand);
      this.box = element("div", { className: "live-lane" }, this.title,
        element("div", { className: "live-pictures" }, this.left.box, this.right.box), this.ticks, this.where);
    }

    // At rest in the snow: `total` calls lie ahead.
    begin(sampler, timesteps, snow, size, alone) {
      const top = timesteps[0];
      const place = t => (1000 * (top - t)) / top;
      Object.assign(this, { place, size, top, total: timesteps.length - 1, calls: 0 });
      this.name = alone ? "" : `${NAMES[sampler]}: `;
      this.title.textContent = alone ? "" : NAMES[sampler];
      this.marks.setAttribute("d", timesteps.slice(0, -1).map(t => `M${place(t)} 0v10`).join(""));
      this.state = { t: top, x: snow, x0: null };
    }

    take(state) {
      this.state = state;
      this.calls++;
    }

    show() {
      const { calls, left, name, right, size, state: { t, x, x0 }, top, total } = this;
      draw(left.canvas, x, size, `${name}The noisy picture, t = ${t} of ${top}`);
      draw(right.canvas, x0, size, name + (x0
        ? `What the network takes the finished picture for, after ${calls} of ${total} calls`
        : "Empty: the network has not been asked yet"));
      this.where.textContent = `t = ${t}, ${calls} of ${total} calls`;
      this.hand.setAttribute("transform", `translate(${this.place(t)} 0)`);
    }
  }

  class DrawPanel extends Player {
    constructor(figure) {
      const { classes, guidance, label, models: names } = figure.dataset, models = names.split(" ");
      // Of a network with classes: the label by its number, and the scale w of guidance towards it.
      const kinds = classes?.split(", ") ?? [], told = classes ? { label: Number(label), guidance: Number(guidance) } : {};
      const lanes = [new Lane(), new Lane()];
      super(figure, { verb: "Draw", settings: { model: models[0], ...told },
        own: { model: ["model", models], guidance: ["w", SCALES], label: ["class", [...kinds.keys()], kinds] },
        shows: element("div", { className: "live-lanes" }, lanes[0].box, lanes[1].box) });
      this.both = lanes;
      for (const lane of lanes) if (!figure.dataset.controls.includes("spacing")) lane.ticks.remove();
      lanes[1].box.remove();
    }

    get total() { return Math.min(...this.lanes.map(lane => lane.total)); }

    async begin(walk) {
      await load(this.settings.model);
      if (walk !== this.walk) return;
      const { model, sampler, beside, seed } = this.settings;
      const { diffusion, network, schedule } = liveModels[model];
      const size = diffusion.image_size, snow = normals(seed)(network.channels * size[0] * size[1]);
      const samplers = [sampler, beside].filter(Boolean);
      this.lanes = this.both.slice(0, samplers.length);
      this.lanes.forEach((lane, i) => {
        const timesteps = grid(schedule, { ...this.settings, sampler: samplers[i] });
        lane.begin(samplers[i], timesteps, snow, size, samplers.length === 1);
        lane.options = { ...this.settings, sampler: samplers[i], lane: i };
      });
      this.figure.querySelector(".live-lanes").replaceChildren(...this.lanes.map(lane => lane.box));
      this.note();
      this.show();
    }

    // The engine, and the model that is chosen.
    async prepare() {
      const { model } = this.settings;
      this.call ??= liveWorker().engine();
      if (this.ready !== model) {
        await this.call("load", liveModels[model]);
        this.ready = model;
      }
    }

    // Who stands in the most noise takes a call; then all that stand in more noise than another catch up.
    async advance(walk) {
      if (!walk.begun) {
        walk.begun = true;
        for (const lane of this.lanes) this.call("start", lane.options);
      }
      const highest = Math.max(...this.lanes.map(lane => lane.state.t));
      for (const lane of this.lanes) if (lane.state.t === highest) await this.ask(lane, walk);
      const lowest = Math.min(...this.lanes.map(lane => lane.state.t));
      for (const lane of this.lanes) {
        while (lane.state.t > lowest && walk === this.walk) await this.ask(lane, walk);
      }
    }

    async ask(lane, walk) {
      const state = await this.call("next", lane.options.lane);
      if (walk !== this.walk) return;
      lane.take(state);
      this.note();
    }

    note() {
      this.t = Math.max(...this.lanes.map(lane => lane.state.t));
      this.calls = this.lanes[0].calls;
    }

    show() { for (const lane of this.lanes) lane.show(); }

    report() {
      const all = this.lanes.map(lane => `${lane.name}Drawn from seed ${this.settings.seed} in ${lane.total} calls.`);
      return all.join(" ");
    }
  }

  make.draw = figure => new DrawPanel(figure).rest();
})();
