// The only module that knows where the vendored ones are.
export { Component, h, render } from "../vendor/preact-11.2.0/preact.mjs";
export { default as htm } from "../vendor/htm-3.1.1/htm.mjs";
export { batch, effect, signal, untracked } from "../vendor/signals-core-1.14.5/signals-core.mjs";
