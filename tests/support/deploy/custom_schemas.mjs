// Reads a list of custom resources from stdin, and prints as JSON what their schemas have against
// them, by kind and name. The argument is the folder with node_modules.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const PACKAGES = {
  "istio.io": "istio",
  "keda.sh": "keda",
  "monitoring.coreos.com": "prometheus-operator",
};
const models = join(process.argv[2], "node_modules", "@kubernetes-models");

function moduleOf({ apiVersion, kind }) {
  const [group] = apiVersion.split("/");
  const found = Object.keys(PACKAGES).find((it) => group === it || group.endsWith(`.${it}`));
  if (found === undefined) throw new Error(`no package has schemas of ${apiVersion}`);
  return pathToFileURL(join(models, PACKAGES[found], apiVersion, `${kind}.js`));
}

// The compiled schemas pass over fields that they do not know, as a cluster does. But they read every
// field that they know, whether it is there or not. So what is there and was never read is unknown.
const read = new Map();

function watched(value, path) {
  if (value === null || typeof value !== "object") return value;
  if (!read.has(path)) {
    const names = new Set();
    const proxy = new Proxy(value, {
      get(target, name) {
        if (typeof name !== "string") return target[name];
        names.add(name);
        return watched(target[name], `${path}/${name}`);
      },
    });
    read.set(path, { value, names, proxy });
  }
  return read.get(path).proxy;
}

function unknownFields() {
  const found = [];
  for (const [path, { value, names }] of read) {
    // Of an object whose fields are free, the schema reads none.
    if (Array.isArray(value) || names.size === 0) continue;
    const unknown = Object.keys(value).filter((it) => !names.has(it));
    found.push(...unknown.map((it) => `${path}/${it} is no field of the schema`));
  }
  return found;
}

const found = {};
for (const manifest of JSON.parse(readFileSync(0, "utf8"))) {
  const { kind, metadata, spec } = manifest;
  const model = (await import(moduleOf(manifest)))[kind];
  read.clear();
  const problems = [];
  try {
    const made = new model(manifest); // a copy, in which what is watched is put
    made.spec = watched(spec, "spec");
    made.validate();
  } catch (error) {
    problems.push(error.message);
  }
  problems.push(...unknownFields());
  if (problems.length > 0) found[`${kind} ${metadata.name}`] = problems.join("; ");
}
console.log(JSON.stringify(found));
