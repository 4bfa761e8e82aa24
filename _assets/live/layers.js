/* The layers of the book's network in plain JavaScript, for one image: what ddpm/unet_blocks.py has torch compute.

   A map of features is a Float32Array with the channels of a pixel side by side: then the pixels under one row of a
   convolution's kernel are one stretch of memory. */
var liveLayers = function () {
  "use strict";

  // As in ddpm/unet_blocks.py.
  const GROUP_NORM_EPS = 1e-6;
  // Output channels that are computed at once.
  const BLOCK = 4;

  // A convolution, or a linear layer as a convolution of one pixel; weights in the order in which `convolve` reads them.
  // Where output channels are missing to a whole block, the weights are 0.
  function packed({ shape: [outputs, inputs, height = 1, width = 1], values }, bias) {
    const blocks = Math.ceil(outputs / BLOCK);
    const area = height * width;
    const weights = new Float32Array(blocks * BLOCK * inputs * area);
    for (let m = 0; m < outputs; m++) {
      for (let c = 0; c < inputs; c++) {
        for (let k = 0; k < area; k++) {
          const place = (Math.floor(m / BLOCK) * area + k) * inputs + c;
          weights[place * BLOCK + (m % BLOCK)] = values[(m * inputs + c) * area + k];
        }
      }
    }
    const whole = new Float32Array(blocks * BLOCK);
    whole.set(bias.values);
    return { weights, bias: whole, inputs, outputs: blocks * BLOCK, size: height };
  }

  // Four channels of two pixels: eight sums stay in registers while a kernel's rows pass by.
  function sums(source, first, second, length, stride, rows, weights, place, out, one, two) {
    let a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0;
    for (let row = 0; row < rows; row++) {
      let i = first + row * stride;
      let j = second + row * stride;
      for (const end = i + length; i < end; i++, j++, place += 4) {
        const x = source[i], y = source[j];
        const p = weights[place], q = weights[place + 1], r = weights[place + 2], s = weights[place + 3];
        a += x * p; b += x * q; c += x * r; d += x * s;
        e += y * p; f += y * q; g += y * r; h += y * s;
      }
    }
    if (one !== two) {
      out[one] += a; out[one + 1] += b; out[one + 2] += c; out[one + 3] += d;
    }
    out[two] += e; out[two + 1] += f; out[two + 2] += g; out[two + 3] += h;
  }

  // Where the kernel of each pixel begins, within a map that has a border of one pixel if the kernel needs one.
  function starts(height, width, channels, size, stride) {
    const border = size === 3 ? 2 : 0;
    // Down-sampling pads below and to the right only: it begins inside the border.
    const shift = stride === 2 ? 1 : 0;
    const found = new Int32Array((height / stride) * (width / stride));
    let n = 0;
    for (let y = 0; y < height; y += stride) {
      for (let x = 0; x < width; x += stride) {
        found[n++] = ((y + shift) * (width + border) + x + shift) * channels;
      }
    }
    return found;
  }

  const known = new Map();

  function once(key, make) {
    if (!known.has(key)) known.set(key, make());
    return known.get(key);
  }

  // `source` has a border if the kernel is one of 3×3. To the result come the bias, and `added`, a map, if there is one.
  function convolve(layer, source, height, width, { stride = 1, bias = layer.bias, added = null } = {}) {
    const { weights, inputs, outputs, size } = layer;
    const begin = once(`starts ${height} ${width} ${inputs} ${size} ${stride}`,
      () => starts(height, width, inputs, size, stride));
    const count = begin.length;
    const out = new Float32Array(count * outputs);
    for (let n = 0, i = 0; n < count; n++) {
      for (let m = 0; m < outputs; m++, i++) out[i] = added ? bias[m] + added[i] : bias[m];
    }
    const length = size * inputs;
    const rowStride = (width + 2) * inputs;
    for (let m = 0; m < outputs; m += BLOCK) {
      for (let n = 0; n < count; n += 2) {
        const next = Math.min(n + 1, count - 1);
        sums(source, begin[n], begin[next], length, rowStride, size, weights, m * size * length,
          out, n * outputs + m, next * outputs + m);
      }
    }
    return out;
  }

  // A map with a border of zeros; `pixel` writes each of the others. The next one of its size takes the same memory.
  function bordered(height, width, channels, pixel) {
    const out = once(`border ${height} ${width} ${channels}`,
      () => new Float32Array((height + 2) * (width + 2) * channels));
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) pixel(out, ((y + 1) * (width + 2) + x + 1) * channels, y, x);
    }
    return out;
  }

  // Group normalisation; factor and shift of every channel.
  function normalisation({ weight, bias }, groups, map) {
    const channels = weight.length;
    const pixels = map.length / channels;
    const sum = new Float64Array(channels), squares = new Float64Array(channels);
    for (let i = 0; i < map.length;) {
      for (let c = 0; c < channels; c++, i++) {
        sum[c] += map[i];
        squares[c] += map[i] * map[i];
      }
    }
    const factor = new Float32Array(channels), shift = new Float32Array(channels);
    const size = channels / groups;
    for (let first = 0; first < channels; first += size) {
      let mean = 0, square = 0;
      for (let c = first; c < first + size; c++) {
        mean += sum[c] / (size * pixels);
        square += squares[c] / (size * pixels);
      }
      const scale = 1 / Math.sqrt(Math.max(square - mean * mean, 0) + GROUP_NORM_EPS);
      for (let c = first; c < first + size; c++) {
        factor[c] = scale * weight[c];
        shift[c] = bias[c] - mean * scale * weight[c];
      }
    }
    return { factor, shift };
  }

  function silu(x) {
    return x / (1 + Math.exp(-x));
  }

  // Normalised, activated, and with the border that the convolution after it needs.
  function activated(norm, groups, map, height, width) {
    const { factor, shift } = normalisation(norm, groups, map);
    const channels = factor.length;
    return bordered(height, width, channels, (out, place, y, x) => {
      let i = (y * width + x) * channels;
      for (let c = 0; c < channels; c++, i++) out[place + c] = silu(map[i] * factor[c] + shift[c]);
    });
  }

  function joined(left, right, pixels) {
    const a = left.length / pixels, b = right.length / pixels;
    const out = new Float32Array(left.length + right.length);
    for (let n = 0; n < pixels; n++) {
      out.set(left.subarray(n * a, (n + 1) * a), n * (a + b));
      out.set(right.subarray(n * b, (n + 1) * b), n * (a + b) + a);
    }
    return out;
  }

  // softmax(q kᵀ/√d) v for the rows of `qkv`, each q, k and v side by side.
  function attended(qkv, pixels) {
    const width = qkv.length / pixels, channels = width / 3;
    const out = new Float32Array(pixels * channels), scores = new Float64Array(pixels);
    for (let n = 0; n < pixels; n++) {
      let highest = -Infinity, total = 0;
      for (let k = 0; k < pixels; k++) {
        let score = 0;
        for (let c = 0, i = n * width, j = k * width + channels; c < channels; c++) score += qkv[i++] * qkv[j++];
        scores[k] = score / Math.sqrt(channels);
        highest = Math.max(highest, scores[k]);
      }
      for (let k = 0; k < pixels; k++) total += scores[k] = Math.exp(scores[k] - highest);
      for (let k = 0; k < pixels; k++) {
        const share = scores[k] / total;
        for (let c = 0, i = n * channels, j = k * width + 2 * channels; c < channels; c++) out[i++] += share * qkv[j++];
      }
    }
    return out;
  }

  return { activated, attended, bordered, convolve, joined, normalisation, packed, silu };
};
