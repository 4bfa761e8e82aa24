/* The panel in which points walk back from snow to a mixture of bumps under its exact denoiser; no network is asked. */
(() => {
  "use strict";
  const { Player, button, element, make, picture } = livePanels;
  const { density, model, noisy } = liveMixture();
  const samplers = liveSamplers();
  const POINTS = 80;
  // The picture shows [-EDGE, EDGE]² on PIXELS² pixels; the density on CELLS² of them.
  const EDGE = 3.2, PIXELS = 640, CELLS = 80;
  // Readable on white and on black alike.
  const BLUE = [0, 114, 178], PATH = "rgba(128, 128, 128, .55)", POINT = "#D55E00";
  const OWN = "your own", OWN_VARIANCE = 0.02, NEAREST = 0.25, MOST = 40;
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  const STRIDE = 0.2;

  const toPixel = value => ((value + EDGE) / (2 * EDGE)) * PIXELS;

  class MixturePanel extends Player {
    constructor(figure) {
      const { canvas, box } = picture("");
      const where = element("div", { className: "live-where" });
      const names = [...Object.keys(liveMixtureTables.presets), OWN];
      super(figure, { verb: "Walk", own: { preset: ["bumps", names] }, settings: { preset: names[0] },
        shows: element("div", { className: "live-plane" }, box, where) });
      Object.assign(this, { canvas, where, own: [], cross: null });
      this.schedule = liveTables().schedule(liveMixtureTables.schedule);
      Object.assign(canvas, { width: PIXELS, height: PIXELS });
      this.clear = button("Clear", () => {
        this.own = [];
        this.rest();
      });
      this.buttons.append(this.clear);
      this.listen();
    }

    get drawable() { return this.settings.preset === OWN; }

    get bumps() { return this.drawable ? this.own : liveMixtureTables.presets[this.settings.preset]; }

    get total() { return this.timesteps.length - 1; }

    begin(walk) {
      const { canvas, drawable } = this;
      this.clear.hidden = !drawable;
      canvas.tabIndex = drawable ? 0 : -1;
      canvas.classList.toggle("live-drawable", drawable);
      canvas.setAttribute("role", drawable ? "application" : "img");
      this.cross = drawable ? this.cross ?? [0, 0] : null;
      this.play.disabled = this.play.nextSibling.disabled = !this.bumps.length;
      const moved = model(this.bumps, this.schedule, POINTS);
      this.timesteps = samplers.grid(this.schedule, this.settings);
      walk.states = samplers.walk(moved, this.settings);
      this.path = [samplers.normals(this.settings.seed)(moved.size)];
      this.t = this.schedule.timesteps;
      this.show();
    }

    prepare() {}

    advance(walk) {
      const { t, x } = walk.states.next().value;
      Object.assign(this, { t, calls: this.calls + 1 });
      this.path.push(x);
    }

    report() { return `${POINTS} points walked from seed ${this.settings.seed} in ${this.calls} steps.`; }

    // ---- what is seen

    show() {
      const { bumps, calls, canvas, drawable, t, total } = this;
      const context = canvas.getContext("2d");
      context.clearRect(0, 0, PIXELS, PIXELS);
      if (bumps.length) this.shade(context, noisy(bumps, this.schedule.alphaBar[t]));
      this.rings(context);
      this.trace(context);
      if (this.cross && document.activeElement === canvas) this.aim(context);
      this.where.textContent = bumps.length ? `t = ${t}, ${calls} of ${total} steps`
        : "Draw bumps here: by mouse or finger, or with the arrow keys and Enter.";
      const seen = `${POINTS} points at t = ${t} of ${this.schedule.timesteps}, over the density of the noisy data; `
        + `the data are ${bumps.length} bumps`;
      canvas.setAttribute("aria-label", drawable ? `${seen}. The arrow keys move a cross, Enter sets a bump there.` : seen);
    }

    // The density of the noisy data, the darker the higher.
    shade(context, parts) {
      const values = Float64Array.from({ length: CELLS ** 2 }, (_, i) => {
        const place = n => ((n + 0.5) / CELLS) * 2 * EDGE - EDGE;
        return density(parts, place(i % CELLS), -place(Math.floor(i / CELLS)));
      });
      const highest = Math.max(...values), image = new ImageData(CELLS, CELLS);
      values.forEach((value, i) => image.data.set([...BLUE, 220 * Math.sqrt(value / highest)], 4 * i));
      const small = element("canvas", { width: CELLS, height: CELLS });
      small.getContext("2d").putImageData(image, 0, 0);
      context.drawImage(small, 0, 0, PIXELS, PIXELS);
    }

    // Around each bump of the data a circle of one standard deviation.
    rings(context) {
      Object.assign(context, { strokeStyle: "#888", lineWidth: 2 });
      for (const { mean: [x, y], variance } of this.bumps) {
        context.beginPath();
        context.arc(toPixel(x), toPixel(-y), toPixel(Math.sqrt(variance)) - toPixel(0), 0, 2 * Math.PI);
        context.stroke();
      }
    }

    // Where the points have been, and where they are.
    trace(context) {
      Object.assign(context, { strokeStyle: PATH, lineWidth: 1.5, fillStyle: POINT });
      const now = this.path.at(-1);
      for (let i = 0; i < now.length; i += 2) {
        context.beginPath();
        for (const x of this.path) context.lineTo(toPixel(x[i]), toPixel(-x[i + 1]));
        context.stroke();
      }
      for (let i = 0; i < now.length; i += 2) {
        context.beginPath();
        context.arc(toPixel(now[i]), toPixel(-now[i + 1]), 5, 0, 2 * Math.PI);
        context.fill();
      }
    }

    aim(context) {
      const [x, y] = [toPixel(this.cross[0]), toPixel(-this.cross[1])];
      Object.assign(context, { strokeStyle: POINT, lineWidth: 3 });
      context.beginPath();
      context.moveTo(x - 14, y);
      context.lineTo(x + 14, y);
      context.moveTo(x, y - 14);
      context.lineTo(x, y + 14);
      context.stroke();
    }

    // ---- a distribution of the reader's own

    // A bump here, if no other is near.
    add([x, y]) {
      const near = this.own.some(({ mean }) => Math.hypot(mean[0] - x, mean[1] - y) < NEAREST);
      if (near || this.own.length === MOST) return;
      this.own.push({ mean: [x, y], variance: OWN_VARIANCE });
      this.rest();
    }

    listen() {
      const { canvas } = this;
      const place = event => {
        const { left, top, width } = canvas.getBoundingClientRect();
        const scale = (2 * EDGE) / width;
        return [(event.clientX - left) * scale - EDGE, EDGE - (event.clientY - top) * scale];
      };
      canvas.addEventListener("pointerdown", event => {
        if (!this.drawable) return;
        canvas.setPointerCapture(event.pointerId);
        this.add(place(event));
      });
      canvas.addEventListener("pointermove", event => {
        if (this.drawable && event.buttons) this.add(place(event));
      });
      canvas.addEventListener("keydown", event => {
        if (!this.drawable) return;
        const move = ARROWS[event.key];
        if (move) this.cross = this.cross.map((value, i) => Math.max(-EDGE, Math.min(EDGE, value + STRIDE * move[i])));
        else if (event.key === "Enter" || event.key === " ") this.add(this.cross);
        else return;
        event.preventDefault();
        this.show();
      });
      for (const event of ["focus", "blur"]) canvas.addEventListener(event, () => this.show());
    }
  }

  make.mixture = figure => new MixturePanel(figure).rest();
})();
