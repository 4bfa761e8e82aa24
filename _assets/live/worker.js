/* The network in a worker, so that the page stays quick while it computes. */
var liveWorker = function () {
  "use strict";

  // What a worker answers to: load a model, start a walk on a lane, take a lane's next step.
  function session(network, samplers) {
    const walks = {};
    let model = null;
    return {
      async load(packedModel) { model = await network.unpack(packedModel); },
      start({ lane, ...options }) { walks[lane] = samplers.walk(model, options); },
      next(lane) { return walks[lane].next().value ?? null; },
    };
  }

  // The body of the worker, which gets its text from here.
  const serve = here => {
    onmessage = async ({ data: [id, method, argument] }) => {
      try {
        postMessage([id, await here[method](argument)]);
      } catch (error) {
        postMessage([id, null, String(error)]);
      }
    };
  };

  // What calls a method of the session and promises its answer; in the page itself where there are no workers.
  function engine() {
    let worker;
    try {
      const network = `(${liveNetwork})((${liveLayers})(), (${liveTables})())`;
      const text = `(${serve})((${session})(${network}, (${liveSamplers})()))`;
      worker = new Worker(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
    } catch {
      const here = session(liveNetwork(liveLayers(), liveTables()), liveSamplers());
      return async (method, argument) => here[method](argument);
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

  return { engine };
};
