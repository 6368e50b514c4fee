// JSON as a person types it.

/** The value of a text. Throws what `Trouble` shows. */
export function readJson(text, name) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw Object.assign(new Error(`${name} is no JSON: ${error.message}`), {
      title: "It was not sent",
      nextStep: 'Write it as JSON, such as {"field": "value"}.',
    });
  }
}
