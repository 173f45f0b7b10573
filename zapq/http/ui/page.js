// The page: who we are, which view is shown, and the beat by which it asks the server while somebody looks.

import { h, say, setText } from "./dom.js";
import { forget } from "./history.js";
import { Server, Snapshots } from "./machine.js";
import { Queue } from "./queue.js";
import { Queues } from "./queues.js";
import { Refused, keepToken, learn, may, me, token } from "./server.js";

const BEAT = 1000;
const main = document.getElementById("main");
const trouble = document.getElementById("trouble");

let view = null;
let wake = () => {};
let known = false;

const refreshSoon = () => wake();

/** What an address means; one that is written wrongly means itself. */
function unescaped(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function viewOf(hash) {
  const [, first, name] = hash.replace(/^#/, "").split("/");
  if (first === "queues" && name) return new Queue(unescaped(name), { refreshSoon });
  if (first === "snapshots" && may("admin")) return new Snapshots({ refreshSoon });
  if (first === "server" && may("metrics")) return new Server();
  return new Queues({ refreshSoon });
}

/** Shows the view that the address names. */
function show(focus = true) {
  view = viewOf(location.hash);
  main.replaceChildren(view.element);
  const title = view.element.querySelector("h1");
  document.title = `${view.name ?? title.textContent} · zapq`;
  const links = [["#/", "Queues"], may("admin") && ["#/snapshots", "Snapshots"], may("metrics") && ["#/server", "Server"]];
  document.getElementById("nav").replaceChildren(...links.filter(Boolean).map(([href, text]) =>
    h("a", { href, "aria-current": title.textContent === text ? "page" : null }, text)));
  if (focus) title.focus();
  wake();
}

function greet() {
  const who = document.getElementById("who");
  const out = () => { keepToken(""); start(); };
  who.replaceChildren(...(token() ? [h("span", {}, me.name ?? ""), h("button", { type: "button", onclick: out }, "Forget the token")] : []));
}

function login(reason) {
  view = null;
  known = false;
  forget();
  document.getElementById("nav").replaceChildren();
  document.getElementById("who").replaceChildren();
  document.title = "Log in · zapq";
  const input = h("input", { type: "password", name: "token", autocomplete: "off", required: true });
  const enter = (event) => {
    event.preventDefault();
    keepToken(input.value.trim());
    start();
  };
  main.replaceChildren(h("section", {}, h("h1", { tabindex: "-1" }, "Log in"),
    h("p", { id: "why" }, reason || "This server needs a token. It stays in this tab, and is forgotten when that is closed."),
    h("form", { class: "row", onsubmit: enter }, h("label", { class: "grow" }, "Token", input), h("button", { type: "submit", class: "main" }, "Log in"))));
  input.focus();
}

function tell(text) {
  trouble.hidden = !text;
  setText(trouble, text);
}

/** Learns who we are, and shows what that allows. */
async function start() {
  const shown = token();
  try {
    await learn();
  } catch (error) {
    if (error instanceof Refused && error.status === 401) {
      keepToken("");
      login(shown ? error.message : "");
      tell("");
    } else {
      tell(`${error.message} Trying again …`);
    }
    return;
  }
  known = true;
  tell("");
  forget();
  greet();
  show(false);
}

/** Refreshes what is shown, and says what is wrong if that fails. */
async function beat() {
  if (!known) {
    if (!main.querySelector("form")) await start();
    return;
  }
  const shown = view;
  try {
    await shown.refresh();
    tell("");
  } catch (error) {
    if (shown !== view) return;
    if (error instanceof Refused && error.status === 401) login(error.message);
    else tell(error instanceof Refused ? error.message : `${error.message} Trying again …`);
    if (!(error instanceof Refused) && error.name !== "Error") console.error(error);
  }
}

async function run() {
  await start();
  for (;;) {
    const next = new Promise((resolve) => { wake = resolve; });
    // A page that nobody looks at asks for nothing.
    if (document.visibilityState === "visible") await beat();
    await Promise.race([next, new Promise((resolve) => { setTimeout(resolve, BEAT); })]);
  }
}

addEventListener("hashchange", () => { if (known) show(); });
document.addEventListener("visibilitychange", () => wake());
addEventListener("unhandledrejection", (event) => say(String(event.reason?.message ?? event.reason)));
run();
