// The way through a list of which one page is shown at a time.
import { html } from "../core/component.js";
import { signal } from "../core/vendor.js";

/** Where an operator is in such a list. `turned` is called as soon as another page is wanted. */
export function paging(turned) {
  /** The cursors of the pages that led here, the present one last; empty on the first page. */
  const cursors = signal([]);
  const following = signal(null);

  function turn(next) {
    cursors.value = next;
    turned();
  }

  return {
    /** The cursor of the page that is wanted now; undefined for the first one. */
    get cursor() {
      return cursors.value.at(-1);
    },

    /** Take what an answer says of the page behind it. */
    arrived(answer) {
      following.value = answer.next_cursor;
    },

    /** Begin with the first page again. */
    restart() {
      turn([]);
    },

    /** The two buttons, and the number of the page. */
    buttons: () => html`
      <nav class="pager" aria-label="Pages">
        <button class="button" disabled=${cursors.value.length === 0}
          onClick=${() => turn(cursors.value.slice(0, -1))}>Newer</button>
        <span class="quiet">Page ${cursors.value.length + 1}</span>
        <button class="button" disabled=${following.value === null}
          onClick=${() => turn([...cursors.value, following.value])}>Older</button>
      </nav>`,
  };
}
