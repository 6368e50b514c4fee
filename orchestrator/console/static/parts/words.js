// What things are called, which tone and sign they have, and how times are written.

/** Tones have a colour in both themes, signs a drawing in `pieces.js`. */
export const RUN = {
  SCHEDULED: { word: "Scheduled", tone: "idle", sign: "dot", ended: false },
  RUNNING: { word: "Running", tone: "go", sign: "play", ended: false },
  COMPENSATING: { word: "Compensating", tone: "back", sign: "back", ended: false },
  STUCK: { word: "Stuck", tone: "alarm", sign: "alarm", ended: false },
  COMPLETED: { word: "Completed", tone: "good", sign: "check", ended: true },
  COMPENSATED: { word: "Compensated", tone: "undone", sign: "undone", ended: true },
  RESOLVED: { word: "Resolved", tone: "hand", sign: "hand", ended: true },
  TERMINATED: { word: "Terminated", tone: "bad", sign: "stop", ended: true },
};

export const STEP = {
  PENDING: { word: "Pending", tone: "idle", sign: "dot" },
  SENT: { word: "Sent", tone: "go", sign: "play" },
  WAITING: { word: "Waiting", tone: "go", sign: "clock" },
  IN_DOUBT: { word: "In doubt", tone: "back", sign: "doubt" },
  DONE: { word: "Done", tone: "good", sign: "check" },
  REFUSED: { word: "Refused", tone: "bad", sign: "cross" },
  UNDOING: { word: "Undoing", tone: "back", sign: "back" },
  UNDONE: { word: "Undone", tone: "undone", sign: "undone" },
  SKIPPED: { word: "Skipped", tone: "hand", sign: "hand" },
  STUCK: { word: "Stuck", tone: "alarm", sign: "alarm" },
};

/** What a run or a step waits for. `listed` is what the status of a run does not say already. */
export const WAITS_FOR = {
  operator: { word: "needs a person", listed: false },
  participant: { word: "no answer", listed: true },
  retry: { word: "delivery fails", listed: true },
  lock: { word: "locked by another", listed: true },
  anew: { word: "refused, asked anew", listed: true },
  ongoing: { word: "at work", listed: true },
  pending: { word: "answer comes later", listed: true },
  resume: { word: "paused", listed: false },
  answer: { word: "on its way", listed: false },
};

export const HAPPENING = {
  scheduled: { word: "Scheduled", tone: "idle" },
  started: { word: "Started", tone: "go" },
  sent: { word: "Sent", tone: "go" },
  repeated: { word: "Repeated", tone: "idle" },
  answered: { word: "Answered", tone: "good" },
  "late-answer": { word: "Late answer", tone: "idle" },
  "stray-effect": { word: "Stray effect", tone: "alarm" },
  "rejected-answer": { word: "Rejected answer", tone: "bad" },
  overdue: { word: "Overdue", tone: "back" },
  buried: { word: "Dead letter", tone: "bad" },
  "turned-back": { word: "Turned back", tone: "back" },
  stuck: { word: "Stuck", tone: "alarm" },
  operator: { word: "Operator", tone: "hand" },
  ended: { word: "Ended", tone: "undone" },
};

/** The word for a line of the history. An answer's tone is that of what it says. */
export function happening({ happening: name, detail }) {
  const found = wordFor(HAPPENING, name);
  return name === "answered" && detail.startsWith("refused") ? { ...found, tone: "bad" } : found;
}

/** The entry of one of these tables; what it does not know is shown under its own name. */
export function wordFor(table, name) {
  return table[name] ?? { word: String(name), tone: "idle", sign: "dot" };
}

const OF_DAY = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
const CLOCK = new Intl.DateTimeFormat([], OF_DAY);
const FINE = new Intl.DateTimeFormat([], { ...OF_DAY, fractionalSecondDigits: 3 });
const DAY = new Intl.DateTimeFormat([], { month: "short", day: "numeric" });
const YEAR = new Intl.DateTimeFormat([], { year: "numeric", month: "short", day: "numeric" });

/** A time of the API in the reader's zone: the day only where it is not today; `fine` to the ms. */
export function time(text, fine = false, now = new Date()) {
  const at = new Date(text);
  const clock = (fine ? FINE : CLOCK).format(at);
  if (at.toDateString() === now.toDateString()) return clock;
  const day = at.getFullYear() === now.getFullYear() ? DAY : YEAR;
  return `${day.format(at)}, ${clock}`;
}

/** How long it is from one time to another, roughly: "0.4 s", "12 s", "3 min 5 s", "2 h 4 min". */
export function span(from, to) {
  const seconds = Math.max(0, (new Date(to) - new Date(from)) / 1000);
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  return length(Math.floor(seconds));
}

/** Whole seconds in words, the two largest units at most. */
export function length(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const parts = [];
  let left = seconds;
  for (const [unit, size] of units) {
    const count = Math.floor(left / size);
    left -= count * size;
    if (count > 0) parts.push(`${count} ${unit}`);
    else if (parts.length > 0) break;
    if (parts.length === 2) break;
  }
  return parts.join(" ") || "0 s";
}

/** The text, cut to so many characters. */
export function cut(text, most) {
  return text.length <= most ? text : text.slice(0, most - 1).trimEnd() + "…";
}
