/* Where the page stands: `#/containers/web?state=running`. All of it is in the fragment, so that the
   manager never sees it and a link leads to the same place. */
import { signal } from "./dom.js";

function read() {
  const [path, search = ""] = location.hash.replace(/^#/, "").split("?", 2);
  const parts = path.split("/").filter(Boolean).map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
  return { parts, search: new URLSearchParams(search), path: `/${parts.map(encodeURIComponent).join("/")}` };
}

export const place = signal(read());
addEventListener("hashchange", () => (place.value = read()));

export const link = (...parts) => `#/${parts.map(encodeURIComponent).join("/")}`;

/** Changes what is searched for, without a step in the browser's history. */
export function search(changes) {
  const { path, search: before } = place.value;
  const after = new URLSearchParams(before);
  for (const [name, value] of Object.entries(changes)) {
    if (value) after.set(name, value);
    else after.delete(name);
  }
  const text = after.toString();
  history.replaceState(null, "", `#${path}${text ? `?${text}` : ""}`);
  place.value = read();
}
