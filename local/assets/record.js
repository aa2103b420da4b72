// The user's row, tokens first. The server shows a sealed value as the version of its key.

/** The fields in the order of the page: name or beginning of the name, and what the field says. */
const GROUPS = [
  ["Tokens", {
    "accessToken.token": "for other backends",
    "accessToken.refresh": "came with the access token; not used",
    "accessToken.expiresAt": "5 minutes earlier, the backend requests a new one",
    "accessToken.obtainedAt": "when Human API gave it",
    "accessToken.from": "the widget through which it came",
    publicToken: "opens the popup for a user who returns",
    publicTokenRefreshedAt: "the last forced refresh",
    "widgetToken.token": "opens the Connect widget",
    "widgetToken.refresh": "came with the widget token; not used",
    "widgetToken.kind": "session_token: no source yet; id_token: connected",
    "widgetToken.expiresAt": "5 minutes earlier, the backend requests a new one",
    widgetTokenRefreshedAt: "the last forced refresh",
    failedAt: "the last failure of Human API to give an access token",
  }],
  ["Identity and connection", {
    userKey: "the row’s key: a hash of the user’s id",
    clientUserId: "the user’s id in the JWT",
    humanId: "Human API’s id of the user",
    sealedHumanId: "the same, sealed: nobody can change it in the table",
    flow: "the widget of the last finish",
    sources: "as the widget has reported them, for display",
    connectedAt: "connected since",
    updatedAt: "the last write of tokens",
    finishes: "finishes and imports that brought tokens",
    revoked: "Human API says that the connection has ended",
    reconnect: "a response with tokens was lost: the user must connect again",
    lostSession: "a hash of the session that was spent on it",
    import: "a hash of the last import",
  }],
  ["In progress", {
    leaseUntil: "a call has the user’s lease until then; in the past: unresolved",
    leaseId: "the last lease",
    pending: "the request to Human API that is in progress",
    takenOver: "calls that were too late to store their response",
    "tickets.": "a ticket of a popup session, by its hash",
    "finished.": "a finished session, by its hash",
  }],
  ["The rest", {
    generation: "made with the row; tells it from a row after a Forget",
    expires: "DynamoDB may delete the row then",
  }],
];

export class RecordCard {
  #root = document.getElementById("record");
  #row = document.getElementById("record-row");
  #group = document.getElementById("record-group");
  #user = null;
  #before = {};
  #removed = {};

  show(user, record) {
    const now = Object.fromEntries(Object.entries(record ?? {}).map(([name, value]) => [name, words(value)]));
    const isSame = user === this.#user;
    const before = isSame ? this.#before : now;
    const gone = Object.entries(before).filter(([name]) => !(name in now));
    const hasChanged = gone.length > 0 || Object.entries(now).some(([name, text]) => before[name] !== text);
    // what was removed stays until the next change
    if (!isSame || hasChanged) this.#removed = Object.fromEntries(gone);
    this.#user = user;
    this.#before = now;
    this.#draw(now, before, record === null ? `The table has no row of ${user}.` : "");
  }

  failed(error) {
    this.#root.replaceChildren(empty(`The record could not be read. ${error.message}`));
  }

  #draw(now, before, note) {
    const all = { ...this.#removed, ...now };
    const places = new Map(Object.keys(all).map((name) => [name, place(name)]));
    const groups = GROUPS.map(([title], index) => {
      const names = Object.keys(all).filter((name) => places.get(name).group === index);
      names.sort((one, other) => places.get(one).order - places.get(other).order || one.localeCompare(other));
      return [title, names];
    });
    const shown = groups.filter(([, names]) => names.length > 0).map(([title, names]) => {
      const group = this.#group.content.firstElementChild.cloneNode(true);
      group.querySelector("h4").textContent = title;
      group.querySelector("dl").append(...names.map((name) => this.#entry(name, all[name], places.get(name).about, name in now, now[name] !== before[name])));
      return group;
    });
    this.#root.replaceChildren(...(note ? [empty(note)] : []), ...shown);
  }

  #entry(name, text, about, isThere, isNew) {
    const row = this.#row.content.firstElementChild.cloneNode(true);
    row.querySelector(".field").textContent = name;
    row.querySelector(".about").textContent = about;
    const value = row.querySelector("dd");
    const shown = document.createElement(isThere ? "span" : "del");
    shown.textContent = text;
    value.append(shown);
    value.classList.toggle("sealed", text.startsWith("sealed"));
    row.classList.toggle("changed", isThere && isNew);
    return row;
  }
}

/** Finds a field in the groups by its name, or by the beginning of its name. An unknown field stands at the end. */
function place(name) {
  for (const [group, [, fields]] of GROUPS.entries()) {
    const order = Object.keys(fields).findIndex((known) => name === known || name.startsWith(known.endsWith(".") ? known : `${known}.`));
    if (order >= 0) return { group, order, about: Object.values(fields)[order] };
  }
  return { group: GROUPS.length - 1, order: Infinity, about: "" };
}

/** Shows a list with one entry per line. */
function words(value) {
  if (typeof value === "string") return value;
  if (Array.isArray(value) && value.length > 0) return value.map((entry) => entry.name ?? JSON.stringify(entry)).join("\n");
  return JSON.stringify(value) ?? "";
}

function empty(text) {
  const node = document.createElement("p");
  node.className = "empty";
  node.textContent = text;
  return node;
}
