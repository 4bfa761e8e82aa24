/* The book's U-Net in plain JavaScript, and how its weights are unpacked: what ddpm/unet.py is in Python. */
var liveNetwork = function (layers, tables) {
  "use strict";
  const { activated, attended, bordered, convolve, joined, normalisation, packed, silu } = layers;

  // As in ddpm/unet_blocks.py.
  const LONGEST_PERIOD = 10000;

  class Network {
    constructor(config, tensors) {
      this.config = config;
      this.groups = config.resnet_block_groups;
      this.tensors = tensors;
      this.layers = {};
      for (const name of Object.keys(tensors)) {
        const part = name.match(/^(.*)\.weight$/)?.[1];
        if (!part) continue;
        const weight = tensors[name], bias = tensors[`${part}.bias`];
        // The rows of an embedding are looked up.
        if (!bias) continue;
        this.layers[part] = weight.shape.length > 1 ? packed(weight, bias)
          : { weight: weight.values, bias: bias.values };
      }
      this.depth = config.dim_mults.length;
      const coarsest = 2 ** (this.depth - 1);
      this.attends = new Set(config.attention_resolutions ?? [coarsest]);
    }

    // The embedding of t, and of the label if there are classes, once activated, as every block takes it.
    time(t, label) {
      const half = this.config.dim / 2;
      const embedding = new Float32Array(2 * half);
      for (let i = 0; i < half; i++) {
        const angle = Math.fround(t * Math.fround(LONGEST_PERIOD ** (-i / (half - 1))));
        embedding[i] = Math.sin(angle);
        embedding[half + i] = Math.cos(angle);
      }
      const first = convolve(this.layers["time_embedding.1"], embedding, 1, 1).map(silu);
      const embedded = convolve(this.layers["time_embedding.3"], first, 1, 1);
      const labels = this.tensors["label_embedding.weight"];
      const row = labels?.values.subarray(label * labels.shape[1]);
      return embedded.map((value, i) => silu(row ? value + row[i] : value));
    }

    block(name, map, time, height, width) {
      const { [`${name}.conv1`]: conv1, [`${name}.conv2`]: conv2, [`${name}.shortcut`]: shortcut } = this.layers;
      const ofTime = convolve(this.layers[`${name}.time`], time, 1, 1);
      const bias = conv1.bias.map((value, m) => value + ofTime[m]);
      const before = activated(this.layers[`${name}.norm1`], this.groups, map, height, width);
      const between = convolve(conv1, before, height, width, { bias });
      const after = activated(this.layers[`${name}.norm2`], this.groups, between, height, width);
      const added = shortcut ? convolve(shortcut, map, height, width) : map;
      return convolve(conv2, after, height, width, { added });
    }

    attention(name, map, height, width) {
      const { factor, shift } = normalisation(this.layers[`${name}.norm`], this.groups, map);
      const normalised = map.map((value, i) => value * factor[i % factor.length] + shift[i % factor.length]);
      const qkv = convolve(this.layers[`${name}.qkv`], normalised, height, width);
      const mixed = attended(qkv, height * width);
      return convolve(this.layers[`${name}.out`], mixed, height, width, { added: map });
    }

    stage(name, map, time, height, width, attends) {
      const h = this.block(`${name}.block`, map, time, height, width);
      return attends ? this.attention(`${name}.attention`, h, height, width) : h;
    }

    // x_t of shape (C, H, W) and t → the output, likewise. The label one above the classes stands for none.
    forward(x, t, [height, width], label = this.config.num_classes) {
      const { channels, num_res_blocks: blocks } = this.config;
      const time = this.time(t, label), first = this.layers.first;
      let h = convolve(first, bordered(height, width, channels, (out, place, y, column) => {
        for (let c = 0; c < channels; c++) out[place + c] = x[(c * height + y) * width + column];
      }), height, width);
      const skips = [h];
      let layer = 0, factor = 1;
      for (let level = 0; level < this.depth; level++) {
        for (let i = 0; i < blocks; i++) {
          h = this.stage(`down.${layer++}`, h, time, height / factor, width / factor, this.attends.has(factor));
          skips.push(h);
        }
        if (level < this.depth - 1) {
          h = this.down(`down.${layer++}.conv`, h, height / factor, width / factor);
          skips.push(h);
          factor *= 2;
        }
      }
      h = this.stage("middle.0", h, time, height / factor, width / factor, true);
      h = this.stage("middle.1", h, time, height / factor, width / factor, false);
      layer = 0;
      for (let level = this.depth - 1; level >= 0; level--) {
        for (let i = 0; i <= blocks; i++) {
          const both = joined(h, skips.pop(), (height * width) / factor ** 2);
          h = this.stage(`up.${layer++}`, both, time, height / factor, width / factor, this.attends.has(factor));
        }
        if (level > 0) {
          factor /= 2;
          h = this.up(`up.${layer++}.conv`, h, height / factor, width / factor);
        }
      }
      return this.output(activated(this.layers.last_norm, this.groups, h, height, width), height, width);
    }

    down(name, map, height, width) {
      const layer = this.layers[name], channels = layer.inputs;
      const source = bordered(height, width, channels, (out, place, y, x) => {
        const start = (y * width + x) * channels;
        for (let c = 0; c < channels; c++) out[place + c] = map[start + c];
      });
      return convolve(layer, source, height, width, { stride: 2 });
    }

    // To `height` × `width`: every pixel four times, then the convolution.
    up(name, map, height, width) {
      const layer = this.layers[name], channels = layer.inputs;
      const source = bordered(height, width, channels, (out, place, y, x) => {
        const start = ((y >> 1) * (width / 2) + (x >> 1)) * channels;
        for (let c = 0; c < channels; c++) out[place + c] = map[start + c];
      });
      return convolve(layer, source, height, width);
    }

    output(source, height, width) {
      const layer = this.layers.last, channels = this.tensors["last.bias"].values.length;
      const map = convolve(layer, source, height, width);
      const out = new Float32Array(channels * height * width);
      for (let c = 0; c < channels; c++) {
        for (let n = 0; n < height * width; n++) out[c * height * width + n] = map[n * layer.outputs + c];
      }
      return out;
    }
  }

  // ---- the weights, as tools/export_live_model.py writes them

  async function inflated(bytes) {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  // All high bytes of the float16 numbers come first, then all low ones, which is easier to compress.
  function fromHalves(bytes) {
    const count = bytes.length / 2;
    const values = new Float32Array(count);
    for (let i = 0; i < count; i++) {
      const high = bytes[i];
      const exponent = (high >> 2) & 31;
      const fraction = ((high & 3) << 8) | bytes[count + i];
      const size = exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24;
      values[i] = high & 128 ? -size : size;
    }
    return values;
  }

  /* What the network sees in x_t: x̂_0 clipped, the noise that goes with it, and the second head if it has one. With a
     label and guidance w, x̂_0 is w times that of the label and 1 − w times that of none, and clipped only then. */
  function predict(network, { image_size: size, objective }, alphaBar, x, t, { label, guidance = 1 }) {
    const signal = Math.sqrt(alphaBar[t]), sigma = Math.sqrt(1 - alphaBar[t]);
    const toX0 = {
      pred_v: (value, output) => signal * value - sigma * output,
      pred_noise: (value, output) => (value - sigma * output) / signal,
      pred_x0: (value, output) => output,
      pred_flow: (value, output) => (value - sigma * output) / (signal + sigma),
    }[objective];
    const alone = label === undefined || guidance === 0;
    const output = network.forward(x, t, size, alone ? undefined : label);
    const free = alone || guidance === 1 ? null : network.forward(x, t, size);
    const x0 = x.map((value, i) => {
      const own = toX0(value, output[i]);
      const mixed = free ? guidance * own + (1 - guidance) * toX0(value, free[i]) : own;
      return Math.min(1, Math.max(-1, mixed));
    });
    const noise = x.map((value, i) => (value - signal * x0[i]) / sigma);
    return { x0, noise, fraction: output.length > x.length ? output.subarray(x.length) : null };
  }

  // A model for the samplers; its weights are compressed.
  async function unpack({ network: config, diffusion, schedule, tensors: shapes, weights }) {
    const values = fromHalves(await inflated(tables.bytes(weights)));
    const tensors = {};
    let start = 0;
    for (const [name, shape] of shapes) {
      const size = shape.reduce((a, b) => a * b, 1);
      tensors[name] = { shape, values: values.subarray(start, (start += size)) };
    }
    const network = new Network(config, tensors), ready = tables.schedule(schedule);
    const [height, width] = diffusion.image_size;
    return { ...ready, network, size: config.channels * height * width,
      predict: (x, t, options) => predict(network, diffusion, ready.alphaBar, x, t, options) };
  }

  return { unpack };
};
