// Where the steps of a saga stand. Values in, values out: no page is needed to lay out a graph.

export const SIZE = {
  width: 216, height: 68, undoHeight: 50, drop: 26, passage: 24, acrossGap: 60, downGap: 26,
  margin: 10,
};

/**
 * Layers from left to right: a step stands in the column behind the last one that it waits for.
 *
 * `steps` have `name`, `after` (names; unknown ones are ignored) and `compensation` (or null).
 * Returns `nodes` {name, column, x, y}, `undos` {name, x, y} beneath the nodes that have a
 * compensation, `edges` {from, to, points} and `undoEdges` {from, to, points} against the order of
 * the steps, and the `width` and `height` of all of it.
 */
export function layout(steps, size = SIZE) {
  const needs = reduced(steps);
  const columns = inColumns(steps, needs);
  const anyUndo = steps.some((step) => step.compensation);
  const cell = size.height + (anyUndo ? size.drop + size.undoHeight : 0);
  const byName = new Map(steps.map((step) => [step.name, step]));
  const tall = (item) => byName.has(item) ? cell : size.passage;
  const total = (column) => column.reduce((sum, item) => sum + tall(item) + size.downGap, 0)
    - size.downGap;
  const tallest = Math.max(cell, ...columns.map(total));
  const places = new Map();
  columns.forEach((column, index) => {
    let y = size.margin + (tallest - total(column)) / 2;
    for (const item of column) {
      places.set(item, { x: size.margin + index * (size.width + size.acrossGap), y });
      y += tall(item) + size.downGap;
    }
  });
  const nodes = columns.flatMap((column, index) =>
    column.filter((item) => byName.has(item))
      .map((name) => ({ name, column: index, ...places.get(name) })));
  const undos = nodes.filter(({ name }) => byName.get(name).compensation)
    .map(({ name, x, y }) => ({ name, x, y: y + size.height + size.drop }));
  return {
    nodes,
    undos,
    edges: joined(needs, columns, places, size),
    undoEdges: backwards(needs, byName, undos, size),
    width: Math.max(1, columns.length) * (size.width + size.acrossGap)
      - size.acrossGap + 2 * size.margin,
    height: tallest + 2 * size.margin,
  };
}

/** What each step waits for, without what it waits for through another one anyway. */
export function reduced(steps) {
  const known = new Set(steps.map((step) => step.name));
  const direct = new Map(steps.map((step) => [
    step.name,
    [...new Set(step.after)].filter((name) => known.has(name) && name !== step.name),
  ]));
  const before = new Map();
  const ancestors = (name, path = new Set()) => {
    if (before.has(name)) return before.get(name);
    if (path.has(name)) return new Set(); // a circle; the orchestrator takes none, but we must end
    path.add(name);
    const all = new Set();
    for (const each of direct.get(name)) {
      all.add(each);
      for (const further of ancestors(each, path)) all.add(further);
    }
    path.delete(name);
    before.set(name, all);
    return all;
  };
  return new Map([...direct].map(([name, needed]) => [
    name,
    needed.filter((one) => !needed.some((other) => other !== one && ancestors(other).has(one))),
  ]));
}

/** The names of each column; where an edge passes a column, "from → to" keeps a place for it. */
function inColumns(steps, needs) {
  const depths = new Map();
  const depth = (name, path = new Set()) => {
    if (depths.has(name)) return depths.get(name);
    if (path.has(name)) return 0;
    path.add(name);
    const found = Math.max(-1, ...needs.get(name).map((each) => depth(each, path))) + 1;
    path.delete(name);
    depths.set(name, found);
    return found;
  };
  const columns = [];
  const put = (column, item) => (columns[column] ??= []).push(item);
  for (const { name } of steps) put(depth(name), name);
  const sources = new Map([...needs]);
  for (const [name, needed] of needs) {
    for (const from of needed) {
      let previous = from;
      for (let column = depth(from) + 1; column < depth(name); column++) {
        const passage = passing(from, name, column);
        put(column, passage);
        sources.set(passage, [previous]);
        previous = passage;
      }
    }
  }
  for (let index = 0; index < columns.length; index++) columns[index] ??= [];
  // Each column in the order of what leads to it, so that few edges cross.
  for (let index = 1; index < columns.length; index++) {
    const above = new Map(columns[index - 1].map((item, row) => [item, row]));
    const rank = (item) => {
      const rows = sources.get(item).map((each) => above.get(each)).filter((row) => row >= 0);
      return rows.length ? rows.reduce((sum, row) => sum + row, 0) / rows.length : 0;
    };
    const ranks = new Map(columns[index].map((item) => [item, rank(item)]));
    columns[index].sort((a, b) => ranks.get(a) - ranks.get(b));
  }
  return columns;
}

const passing = (from, to, column) => `${from}\0${to}\0${column}`;

function joined(needs, columns, places, size) {
  const edges = [];
  const columnOf = new Map(columns.flatMap((column, index) => column.map((it) => [it, index])));
  const middle = size.height / 2;
  for (const [to, needed] of needs) {
    for (const from of needed) {
      const start = places.get(from);
      const points = [{ x: start.x + size.width, y: start.y + middle }];
      for (let column = columnOf.get(from) + 1; column < columnOf.get(to); column++) {
        const at = places.get(passing(from, to, column));
        const y = at.y + size.passage / 2;
        points.push({ x: at.x, y }, { x: at.x + size.width, y });
      }
      const end = places.get(to);
      points.push({ x: end.x, y: end.y + middle });
      edges.push({ from, to, points });
    }
  }
  return edges;
}

/** Undoing runs the other way; steps without a compensation are passed over. */
function backwards(needs, byName, undos, size) {
  const at = new Map(undos.map((undo) => [undo.name, undo]));
  const undoneAfter = (name, seen = new Set()) => (needs.get(name) ?? []).flatMap((each) => {
    if (seen.has(each)) return [];
    seen.add(each);
    return byName.get(each).compensation ? [each] : undoneAfter(each, seen);
  });
  const middle = size.undoHeight / 2;
  return undos.flatMap((undo) => undoneAfter(undo.name).map((to) => ({
    from: undo.name,
    to,
    points: [
      { x: undo.x, y: undo.y + middle },
      { x: at.get(to).x + size.width, y: at.get(to).y + middle },
    ],
  })));
}

/** An SVG path through the points, level where it leaves and where it arrives. */
export function curve(points) {
  const [first, ...others] = points;
  let before = first;
  let path = `M${first.x} ${first.y}`;
  for (const point of others) {
    const half = (before.x + point.x) / 2;
    path += ` C${half} ${before.y} ${half} ${point.y} ${point.x} ${point.y}`;
    before = point;
  }
  return path;
}
