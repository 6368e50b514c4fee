// The console: its frame, and which page is in it.
import { BASE, signInBy } from "./core/api.js";
import { component, html } from "./core/component.js";
import { DefinitionPage, DefinitionsPage } from "./pages/definitions.js";
import { LettersPage } from "./pages/letters.js";
import { ListPage } from "./pages/list.js";
import { ParticipantsPage } from "./pages/participants.js";
import { Announcement, Empty, Trouble } from "./parts/pieces.js";
import { TokenForm } from "./parts/sign_in.js";
import { entitle, route, to } from "./core/routes.js";
import { SagaPage } from "./pages/saga.js";
import { signedIn, signIn, signOut } from "./core/session.js";
import { render, signal } from "./core/vendor.js";

const PAGES = [["sagas", "Sagas"], ["definitions", "Definitions"], ["participants", "Participants"],
  ["dead-letters", "Dead letters"]];
const THEMES = [["", "System"], ["light", "Light"], ["dark", "Dark"]];

const Console = component(() => {
  const theme = signal(sagaboxTheme.chosen());
  const trouble = signal(null);

  function choose(event) {
    theme.value = event.currentTarget.value;
    sagaboxTheme.choose(theme.value);
  }

  return () => {
    const [page = "sagas", ...rest] = route.value.parts;
    return html`
      <a class="skip" href="#content" onClick=${(event) => {
        event.preventDefault();
        document.getElementById("content").focus();
      }}>To the content</a>
      <header class="top"><div class="bar">
        <a class="brand" href=${to(["sagas"])}>
          <img src=${`${BASE}console/icon.svg`} width="26" height="26" alt="" /><span>Sagabox</span></a>
        <nav aria-label="Main">${PAGES.map(([part, title]) => html`
          <a key=${part} href=${to([part])}
            aria-current=${part === page ? "page" : undefined}>${title}</a>`)}</nav>
        <label class="theme"><span class="heard-only">Colours</span>
          <select value=${theme.value} onChange=${choose}>${THEMES.map(([value, title]) => html`
            <option key=${value} value=${value}>${title}</option>`)}</select></label>
        ${signedIn.value && html`<button class="button" onClick=${() =>
          signOut().catch((error) => (trouble.value = error))}>Sign out</button>`}
      </div></header>
      <main id="content" tabindex="-1">
        <${Trouble} problem=${trouble.value} />
        ${content(page, rest)}
      </main>
      <${Announcement} />
      <${TokenForm} />`;
  };
});

function content(page, [first, second]) {
  switch (page) {
    case "sagas":
      return first ? html`<${SagaPage} key="saga ${first}" id=${first} />`
        : html`<${ListPage} key="list" />`;
    case "definitions":
      return first && second
        ? html`<${DefinitionPage} key="${first} ${second}" name=${first} version=${second} />`
        : html`<${DefinitionsPage} key="definitions" />`;
    case "participants":
      return html`<${ParticipantsPage} key="participants" />`;
    case "dead-letters":
      return html`<${LettersPage} key="letters" />`;
    default:
      entitle("No such page");
      return html`<${Empty}>There is no such page. <a href=${to(["sagas"])}>See the sagas</a>.<//>`;
  }
}

// Relative, it would be looked for below each page that is shown.
document.querySelector("link[rel=icon]").href = `${BASE}console/icon.svg`;
signInBy(signIn);
render(html`<${Console} />`, document.getElementById("console"));
