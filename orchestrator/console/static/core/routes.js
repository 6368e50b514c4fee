// Which page is shown: it stands in the path behind /console, so that it can be kept and shared.
import { signal } from "./vendor.js";

/** The path of the console, behind a prefix too. */
const HOME = new URL("../../console", import.meta.url).pathname;

/** `parts` of the path and the `query` (URLSearchParams) of the present address. */
export const route = signal(read());

addEventListener("popstate", () => (route.value = read()));
addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  const isPlain = event.button === 0 && !(event.metaKey || event.ctrlKey || event.shiftKey || event.altKey);
  if (!link || !isPlain || event.defaultPrevented || link.target || !isOurs(link)) return;
  event.preventDefault();
  go(link.href);
  // What was clicked is gone; a reader goes on at the top of the new page.
  scrollTo(0, 0);
  document.getElementById("content").focus({ preventScroll: true });
});

/** Show the page at an address that `to` gave. */
export function go(address) {
  history.pushState(null, "", address);
  route.value = read();
}

/** The address of a page, for a link. */
export function to(parts, query = new URLSearchParams()) {
  const asked = query.toString();
  return `${[HOME, ...parts.map(encodeURIComponent)].join("/")}${asked && `?${asked}`}`;
}

/** Name the page in the browser's tab and list of visited pages. */
export function entitle(title) {
  document.title = `${title} · Sagabox`;
}

function read() {
  // Links of before, when a page stood behind a #.
  if (location.hash.startsWith("#/")) history.replaceState(null, "", HOME + location.hash.slice(1));
  const path = location.pathname.slice(HOME.length);
  return { parts: path.split("/").filter(Boolean).map(decode), query: new URLSearchParams(location.search) };
}

function isOurs({ origin, pathname }) {
  return origin === location.origin && (pathname === HOME || pathname.startsWith(`${HOME}/`));
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
