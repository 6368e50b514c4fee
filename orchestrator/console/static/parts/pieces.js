// Small things that every page is made of.
import { component, html } from "../core/component.js";
import { signal } from "../core/vendor.js";
import { RUN, time, wordFor } from "./words.js";

const SIGNS = {
  play: "M5.5 3.5v9l7-4.500z",
  back: "M6.5 4 3 7.5 6.5 11M3.5 7.500h6a3 3 0 0 1 0 6H7",
  alarm: "M8 3.5v5.500M8 12.200v.3",
  check: "m3.5 8.5 3 3 6-7",
  undone: "M4 6a5 5 0 1 1-.5 4M3.5 3v3.5H7",
  hand: "M8 8a2.3 2.3 0 1 0 0-4.600A2.3 2.3 0 0 0 8 8zM3.5 13.300c.4-5 8.6-5 9 0",
  stop: "M4.5 4.500h7v7h-7z",
  cross: "m4.5 4.5 7 7m0-7-7 7",
  doubt: "M5.5 6a2.5 2.5 0 1 1 3.7 2.200C8.3 8.7 8 9.2 8 10M8 12.500v.3",
  clock: "M8 3a5 5 0 1 0 0 10A5 5 0 0 0 8 3zM8 5.5V8l2 1.500",
  dot: "M8 4.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7z",
};

/** The sign of a status; its word stands beside it, so that it says nothing to a screen reader. */
export function Sign({ name, size = 14, ...place }) {
  return html`<svg class="sign sign-${name}" viewBox="0 0 16 16" width=${size} height=${size}
    aria-hidden="true" ...${place}><path d=${SIGNS[name] ?? SIGNS.dot} /></svg>`;
}

/** How a run stands, as colour, sign and word. */
export function Badge({ status, paused }) {
  const { word, tone, sign } = wordFor(RUN, status);
  return html`<span class="badges"><span class="badge tone-${tone}"><${Sign} name=${sign} />${word}</span>
    ${paused && html`<span class="badge tone-idle"><${Sign} name="stop" />Paused</span>`}</span>`;
}

/** A time, with all of it on the tooltip. */
export function When({ at, fine = false }) {
  return at ? html`<time datetime=${at} title=${at}>${time(at, fine)}</time>` : html`<span>–</span>`;
}

/** What went wrong, and what to do next. Takes no room while there is nothing to say. */
export function Trouble({ problem }) {
  return html`<div role="alert">${problem && html`
    <div class="trouble">
      <strong>${problem.title ?? "It did not work"}</strong>
      <p>${problem.message}</p>
      ${problem.nextStep && html`<p class="next">${problem.nextStep}</p>`}
    </div>`}</div>`;
}

/** What a page says while there is nothing to show. */
export function Empty({ children }) {
  return html`<p class="empty">${children}</p>`;
}

const said = signal("");

/** Tell those who listen to the page. */
export function announce(text) {
  said.value = text;
}

/** Where `announce` speaks. */
export const Announcement = component(() => () => html`
  <div class="heard-only" role="status" aria-live="polite">${said.value}</div>`);
