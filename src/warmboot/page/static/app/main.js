/* The page: its frame, and which of its pages is shown. */
import { Notes } from "./actions.js";
import { admitted, get, refused, signIn, token } from "./api.js";
import { html, render, useEffect, useRef, useState } from "./dom.js";
import { connection, connects, followEvents } from "./events.js";
import { Container, Containers } from "./pages/containers.js";
import { Doctor } from "./pages/doctor.js";
import { Engine, Engines } from "./pages/engines.js";
import { Events } from "./pages/events.js";
import { Overview } from "./pages/overview.js";
import { Registry } from "./pages/registry.js";
import { Worker, Workers } from "./pages/workers.js";
import { Told } from "./parts.js";
import { link, place } from "./router.js";

const NOUNS = [
  ["overview", "Overview", Overview],
  ["containers", "Containers", Containers, Container],
  ["engines", "Engines", Engines, Engine],
  ["workers", "Workers", Workers, Worker],
  ["registry", "Registry", Registry],
  ["events", "Events", Events],
  ["doctor", "Doctor", Doctor],
];
const THEMES = ["auto", "light", "dark"];
const CONNECTIONS = { connecting: "connecting", live: "live", lost: "connection lost" };

function Page() {
  const [noun = "overview", id] = place.value.parts;
  const found = NOUNS.find(([name]) => name === noun);
  const Shown = found && (id === undefined ? found[2] : found[3]);
  const main = useRef(null);
  useEffect(() => {
    document.title = Shown ? `${id ?? found[1]} – warmboot` : "warmboot";
    if (connects.value > 0) main.current?.focus();
    scrollTo(0, 0);
  }, [noun, id]);
  return html`<a class="skip" href="#main" onClick=${(event) => (event.preventDefault(), main.current?.focus())}>To the content</a>
    <header class="frame">
      <a class="brand" href="#/">warmboot</a>
      <nav aria-label="Pages">
        ${NOUNS.map(([name, title]) => html`<a key=${name} href=${link(name)} aria-current=${name === noun ? "page" : undefined}>${title}</a>`)}
        ${!token.value && html`<a href="/docs">API</a>`}
      </nav>
      <div class="tools">
        <span role="status" class=${`connection ${connection.value}`}>${admitted.value ? CONNECTIONS[connection.value] : ""}</span>
        <${Theme} />
        ${token.value && html`<button type="button" class="small" onClick=${() => signIn("")}>Forget the token</button>`}
      </div>
    </header>
    <main id="main" tabindex="-1" ref=${main}>
      ${refused.value ? html`<${SignIn} />` : Shown ? html`<${Shown} id=${id} />` : html`<h1>There is no such page</h1><p><a href="#/">Overview</a></p>`}
    </main>
    <${Notes} />`;
}

function SignIn() {
  const [typed, type] = useState("");
  const [problem, tell] = useState(refused.value);
  async function enter(event) {
    event.preventDefault();
    const before = token.value;
    signIn(typed.trim());
    try {
      await get("/v1/info");
    } catch (error) {
      if (error.status !== 401) signIn(before);
      refused.value = error;
      tell(error);
    }
  }
  return html`<h1>Who are you?</h1>
    <${Told} problem=${problem} />
    <form class="sign-in" onSubmit=${enter}>
      <label>One of the manager's tokens (<code>MANAGER_TOKENS</code>)
        <input type="password" value=${typed} autocomplete="off" required onInput=${(event) => type(event.target.value)} /></label>
      <button type="submit">Use it in this tab</button>
    </form>
    <p class="quiet-text">It is kept until this tab is closed, and is in no address and no cookie.</p>`;
}

function Theme() {
  const [theme, choose] = useState(stored());
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem("warmboot-theme", theme);
    } catch {
      // It is as chosen until the page is closed.
    }
  }, [theme]);
  const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  return html`<button type="button" class="small" onClick=${() => choose(next)} aria-label=${`Colours: ${theme}; change to ${next}`}>${theme}</button>`;
}

function stored() {
  try {
    const found = localStorage.getItem("warmboot-theme");
    return THEMES.includes(found) ? found : "auto";
  } catch {
    return "auto";
  }
}

followEvents();
const root = document.getElementById("page");
root.replaceChildren();
render(html`<${Page} />`, root);
