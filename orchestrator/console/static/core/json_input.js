// JSON as a person types it.
import { readTyped } from "./json.js";

/** The value of a text, with its numbers as they were typed. Throws what `Trouble` shows. */
export function readJson(text, name) {
  try {
    return readTyped(text);
  } catch (error) {
    throw Object.assign(new Error(`${name} is no JSON: ${error.message}`), {
      title: "It was not sent",
      nextStep: 'Write it as JSON, such as {"field": "value"}.',
    });
  }
}
