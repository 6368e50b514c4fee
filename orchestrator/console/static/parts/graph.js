// The steps of a saga as a picture: forward from left to right, and beneath each what undoes it.
import { html } from "../core/component.js";
import { curve, layout, SIZE } from "./layout.js";
import { Sign } from "./pieces.js";
import { cut, STEP, wordFor } from "./words.js";

const IDLE = { word: "not called", tone: "idle", sign: "dot" };

/**
 * `steps` are those of a run or, with `plain`, of a definition, which have no status. `turnedBack`
 * says whether the run is on its way back. `selected` is the name of the step that is shown in full,
 * `select(name)` chooses another one.
 */
export function Graph({ steps, plain = false, turnedBack = false, selected, select }) {
  const { nodes, undos, edges, undoEdges, width, height } = layout(steps);
  const step = new Map(steps.map((it) => [it.name, it]));
  const undoOf = (name) => compensationOf(step.get(name), plain, turnedBack);
  const taken = (name) => !plain && step.get(name).status !== "PENDING";
  const goneBack = ({ from, to }) => undoOf(from).tone !== "idle" && undoOf(to).tone !== "idle";
  return html`
    <div class="graph" tabindex="0" role="region" aria-label="The steps as a graph"
        ref=${(frame) => frame && reveal(frame, nodes.find((node) => node.name === selected))}>
      <svg width=${width} height=${height} viewBox="0 0 ${width} ${height}" role="group"
          aria-label="Steps and what undoes them">
        <defs>${["idle", "good", "undone"].map((tone) => html`
          <marker key=${tone} id="arrow-${tone}" class="arrow tone-${tone}" viewBox="0 0 8 8" refX="7"
            refY="4" markerWidth="8" markerHeight="8" markerUnits="userSpaceOnUse"
            orient="auto-start-reverse"><path d="M0 0.5 7.5 4 0 7.5z" /></marker>`)}
        </defs>
        ${edges.map((edge) => line(edge, taken(edge.to) ? "good" : "idle", "edge"))}
        ${undoEdges.map((edge) => line(edge, goneBack(edge) ? "undone" : "idle", "edge back"))}
        ${undos.map((undo) => drop(undo, undoOf(undo.name).tone === "idle" ? "idle" : "undone"))}
        ${nodes.map((node) => box(node, step.get(node.name), { plain, selected, select }))}
        ${undos.map((undo) => undoBox(undo, step.get(undo.name), undoOf(undo.name), plain))}
      </svg>
    </div>`;
}

/** Where the graph is wider than its frame, bring a newly chosen step to sight. */
function reveal(frame, node) {
  if (!node || frame.dataset.revealed === node.name) return;
  frame.dataset.revealed = node.name;
  frame.scrollLeft = node.x - (frame.clientWidth - SIZE.width) / 2;
}

/** How the compensation of a step stands, which the API tells by the step's own status. */
export function compensationOf(step, plain, turnedBack) {
  if (plain) return { ...IDLE, word: "undoes it" };
  if (step.status === "UNDOING" || step.status === "UNDONE") return STEP[step.status];
  if (["WAITING", "STUCK"].includes(step.status) && turnedBack) return STEP[step.status];
  return IDLE;
}

function line({ from, to, points }, tone, kind) {
  return html`<path key="${kind} ${from} ${to}" class="${kind} tone-${tone}" d=${curve(points)}
    marker-end="url(#arrow-${tone})" />`;
}

function drop({ name, x, y }, tone) {
  const middle = x + SIZE.width / 2;
  return html`<path key="drop ${name}" class="edge back tone-${tone}"
    d="M${middle} ${y - SIZE.drop} V${y}" marker-end="url(#arrow-${tone})" />`;
}

function box({ name, x, y }, step, { plain, selected, select }) {
  const { word, tone, sign } = plain ? { ...IDLE, word: step.participant } : wordFor(STEP, step.status);
  const choose = () => select?.(name);
  const press = (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    choose();
  };
  const kind = step.kind ?? "step";
  return html`
    <g key="node ${name}" class="node kind-${kind} tone-${tone} ${select ? "can" : ""}"
        transform="translate(${x} ${y})" data-step=${name} data-status=${step.status}
        role=${select ? "button" : "img"} tabindex=${select ? 0 : undefined}
        aria-pressed=${select ? String(selected === name) : undefined}
        aria-label="${name}, ${kind}: ${word}" onClick=${choose} onKeyDown=${press}>
      <title>${name}</title>
      <rect class="frame" width=${SIZE.width} height=${SIZE.height} rx="10" />
      ${kind === "pivot" && html`<rect class="inner" x="3" y="3" width=${SIZE.width - 6}
        height=${SIZE.height - 6} rx="7" />`}
      <text class="kind" x="16" y="21">${kind}</text>
      <svg width=${SIZE.width - 10} height=${SIZE.height}>
        <text class="name" x="16" y="39">${cut(name, 23)}</text></svg>
      ${!plain && html`<${Sign} name=${sign} size=${14} x=${14} y=${46} />`}
      <text class="word" x=${plain ? 16 : 33} y="57">${cut(statusLine(step, word), 28)}</text>
    </g>`;
}

function undoBox({ name, x, y }, step, { word, tone, sign }, plain) {
  return html`
    <g key="undo ${name}" class="node undo tone-${tone}" transform="translate(${x} ${y})"
        data-undoes=${name} role="img" aria-label="undoes ${name}: ${step.compensation}, ${word}">
      <title>${step.compensation}</title>
      <rect class="frame" width=${SIZE.width} height=${SIZE.undoHeight} rx="10" />
      <text class="type" x="16" y="20">${cut(step.compensation, 28)}</text>
      <${Sign} name=${plain ? "back" : sign} size=${14} x=${14} y=${27} />
      <text class="word" x="33" y="38">${word}</text>
    </g>`;
}

function statusLine(step, word) {
  if (step.awaited?.sendings > 1) return `${word}, ${step.awaited.sendings} times`;
  return word;
}
