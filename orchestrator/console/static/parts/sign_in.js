// The dialog that asks for a token.
import { component, html } from "../core/component.js";
import { trade, wanted } from "../core/session.js";
import { signal } from "../core/vendor.js";
import { Trouble } from "./pieces.js";

/** Asks for a token as long as one is wanted. */
export const TokenForm = component(() => {
  const busy = signal(false);
  const trouble = signal(null);

  async function submit(event) {
    event.preventDefault();
    const form = event.currentTarget;
    busy.value = true;
    trouble.value = null;
    try {
      await trade(new FormData(form).get("token"));
      form.reset();
    } catch (error) {
      trouble.value = error;
    } finally {
      busy.value = false;
    }
  }

  // Escape closes any dialog; without a token there is nothing behind this one.
  const open = (element) => element && !element.open && element.showModal();

  return () => wanted.value && html`
    <dialog class="dialog" ref=${open} aria-labelledby="token-title"
        onClose=${(event) => open(event.currentTarget)}>
      <form onSubmit=${submit}>
        <h2 id="token-title">Sign in</h2>
        <p class="quiet">This orchestrator wants to know who asks. A token is made
          by <code>sagabox token create</code>.</p>
        <label class="field"><span>Token</span>
          <input type="password" name="token" required autofocus autocomplete="current-password"
            spellcheck="false" /></label>
        <${Trouble} problem=${trouble.value} />
        <div class="dialog-foot">
          <button class="button primary" disabled=${busy.value}>Sign in</button>
        </div>
      </form>
    </dialog>`;
});
