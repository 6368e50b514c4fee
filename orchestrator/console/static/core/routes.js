// Which page is shown: it stands behind the # of the address, so that it can be kept and shared.
import { signal } from "./vendor.js";

/** `parts` of the path and the `query` (URLSearchParams) of the present address. */
export const route = signal(read());

addEventListener("hashchange", () => (route.value = read()));

function read() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  return { parts: path.split("/").filter(Boolean).map(decode), query: new URLSearchParams(query) };
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The address of a page, for a link. */
export function to(parts, query = new URLSearchParams()) {
  const asked = query.toString();
  return `#/${parts.map(encodeURIComponent).join("/")}${asked && `?${asked}`}`;
}
