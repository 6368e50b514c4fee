// JSON whose numbers stay as they are written: JavaScript's own are wrong beyond 2^53, and know of
// neither 10.10 nor 1.0.

/** The significant digits that JavaScript's numbers always keep. */
const KEPT = 15;
const TOKENS = /"(?:[^"\\]|\\.)*"|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

/** A number by its text. It compares and is shown as a number, roughly where it is large. */
export class Numeral {
  constructor(text) {
    this.text = text;
  }

  valueOf() {
    return Number(this.text);
  }

  toString() {
    return this.text;
  }
}

/** The value of a text, where numbers that JavaScript would change are Numerals. */
export function read(text) {
  return parse(text, (number) => digits(number) > KEPT || !Number.isFinite(Number(number)));
}

/** The same, where each number that JavaScript would write otherwise is one. */
export function readTyped(text) {
  return parse(text, (number) => String(Number(number)) !== number);
}

/** The text of a value, its Numerals as they were read. */
export function write(value, indent) {
  const mark = newMark();
  const marked = JSON.stringify(
    value,
    (_, each) => (each instanceof Numeral ? mark + each.text : each),
    indent,
  );
  return marked.replaceAll(new RegExp(`"${mark}([^"]*)"`, "g"), "$1");
}

function parse(text, isKept) {
  JSON.parse(text); // throws where it is none, with the place in the text itself
  const mark = newMark();
  const marked = text.replace(TOKENS, (token) =>
    token[0] !== '"' && isKept(token) ? `"${mark}${token}"` : token);
  return JSON.parse(marked, (_, value) =>
    typeof value === "string" && value.startsWith(mark) ? new Numeral(value.slice(mark.length)) : value);
}

function digits(number) {
  return number.replace(/[eE].*/, "").replace(/[-.]/g, "").replace(/^0+/, "").length;
}

/** A text that no other text begins with. */
function newMark() {
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join("");
}
