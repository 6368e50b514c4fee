// A store of keys and values that survives kill -9: one file to which each request appends a line.
// One process uses it at a time.
import { dirname } from "node:path";
import * as fs from "node:fs";

export class Journal {
  #values = new Map();
  #unwritten = [];
  #file;

  constructor(path) {
    const bytes = fs.existsSync(path) ? fs.readFileSync(path) : Buffer.alloc(0);
    // After the last newline is half a line: its process died, and no sender was answered for it.
    const whole = bytes.lastIndexOf("\n") + 1;
    const lines = bytes.toString("utf8", 0, whole).split("\n");
    for (const line of lines.filter(Boolean)) this.#keep(JSON.parse(line));
    this.#file = fs.openSync(path, "a");
    fs.ftruncateSync(this.#file, whole);
    fs.fsyncSync(fs.openSync(dirname(path), "r"));
  }

  // What is put into a transaction is seen by it alone, until it is committed.
  begin() {
    const writes = new Map();
    return {
      get: (key) => (writes.has(key) ? writes.get(key) : this.#values.get(key)),
      put: (key, value) => writes.set(key, value),
      commit: () => {
        this.#keep([...writes]);
        this.#unwritten.push(...writes);
      },
    };
  }

  // To be called before a sender is answered. All that was committed since is one line, so that
  // half of it is never there. If it cannot be written, the memory knows more than the disk does.
  flush() {
    if (this.#unwritten.length === 0) return;
    try {
      const line = Buffer.from(JSON.stringify(this.#unwritten) + "\n");
      for (let done = 0; done < line.length; ) done += fs.writeSync(this.#file, line, done);
      fs.fsyncSync(this.#file);
    } catch (error) {
      console.error(error);
      process.exit(1);
    }
    this.#unwritten = [];
  }

  #keep(writes) {
    for (const [key, value] of writes) this.#values.set(key, value);
  }
}
