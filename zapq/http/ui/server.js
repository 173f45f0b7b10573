// The server: every request this page sends, and who it says we are.

const KEY = "zapq.token";

/** A refusal of the server, in its own words. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ?? `The server answered ${status}.`);
    this.status = status;
    this.problem = (problem.type ?? "").replace("/problems/", "");
  }
}

/** The server does not answer. */
export class Away extends Error {}

/** What the credential allows, as /whoami says it. */
export const me = { name: null, roles: [], queues: "*" };

export const token = () => sessionStorage.getItem(KEY) ?? "";

export function keepToken(text) {
  if (text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
}

/** Sends a request, and returns the answer; raises `Refused` or `Away`. */
export async function ask(method, path, { body, headers = {}, query = {} } = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  const target = given.length ? `${path}?${new URLSearchParams(given)}` : path;
  if (token()) headers = { ...headers, Authorization: `Bearer ${token()}` };
  let answer;
  try {
    answer = await fetch(target, { method, headers, body, cache: "no-store", credentials: "omit", redirect: "error" });
  } catch {
    throw new Away("The server does not answer.");
  }
  if (answer.ok) return answer;
  let problem = {};
  try { problem = await answer.json(); } catch { /* It was not the server that answered. */ }
  throw new Refused(answer.status, problem);
}

export const get = async (path, query) => (await ask("GET", path, { query })).json();

export const post = async (path, query) => (await ask("POST", path, { query })).text();

export const pathOf = (queue) => `/queues/${encodeURIComponent(queue)}`;

/** Learns who we are; raises `Refused` (401) if a token is needed. */
export async function learn() {
  Object.assign(me, { name: null, roles: [], queues: "*" }, await get("/whoami"));
}

function fits(name, pattern) {
  const plain = pattern.replace(/[.+^${}()|[\]\\]/g, "\\$&").replace(/\*/g, ".*").replace(/\?/g, ".");
  return new RegExp(`^${plain}$`).test(name);
}

/** Whether we may do what takes `role`, in `queue`; without one, in all of them. */
export function may(role, queue) {
  return me.roles.includes(role) && (me.queues === "*" || (queue !== undefined && fits(queue, me.queues)));
}
