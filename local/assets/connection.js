// The user's view of the connection: nothing yet, or the sources with their dates.

export class ConnectionCard {
  #root = document.getElementById("connection");
  #badge = document.getElementById("connection-badge");
  #connect = document.getElementById("connect");
  #onAgain;
  isConnected = false;

  /** @param {() => void} onAgain reads the connection again */
  constructor(onAgain) {
    this.#onAgain = onAgain;
  }

  looking() {
    this.#root.replaceChildren(clone("connection-looking"));
    this.#say("", false);
  }

  /** @param {object} connection the answer of GET /connect/connection */
  show(connection) {
    const { connected } = connection;
    this.isConnected = connected;
    this.#root.replaceChildren(connected ? details(connection) : clone("connection-none"));
    this.#say(connected ? "Connected" : "Not connected", connected);
    this.#connect.textContent = connected ? "Manage connections" : "Connect health data";
  }

  /** @param {{seconds: number, code: string}} event */
  waiting({ seconds, code }, onCancel) {
    const text = `The backend answered “${code}”. The console tries again in ${Math.ceil(seconds)} s.`;
    this.#root.replaceChildren(paragraph("muted", text), button("Cancel", onCancel));
  }

  failed(error) {
    const text = error.name === "AbortError" ? "The connection was not read." : `The connection could not be read. ${error.message}`;
    this.#root.replaceChildren(paragraph("failed", text), button("Read again", this.#onAgain));
    this.#say("Unknown", false);
    this.#connect.textContent = "Connect health data";
  }

  #say(text, good) {
    this.#badge.textContent = text;
    this.#badge.hidden = !text;
    this.#badge.classList.toggle("good", good);
  }
}

function details({ sources, connectedAt, updatedAt, flow, humanId }) {
  const view = clone("connection-some");
  const list = view.querySelector(".sources");
  for (const { id, name } of sources) {
    const item = clone("source");
    item.querySelector(".initials").textContent = initials(name ?? id);
    item.querySelector(".name").textContent = name ?? id;
    list.append(item);
  }
  list.hidden = sources.length === 0;
  view.querySelector(".none").hidden = sources.length > 0;
  setTime(view.querySelector(".since"), connectedAt);
  setTime(view.querySelector(".updated"), updatedAt);
  view.querySelector(".flow").textContent = flow === "popup" ? "the popup" : "Connect";
  view.querySelector(".human").textContent = humanId ?? "unknown";
  return view;
}

function initials(name) {
  return name.split(/\s+/).slice(0, 2).map((word) => [...word][0] ?? "").join("").toUpperCase();
}

function setTime(time, value) {
  time.textContent = value ? new Date(value).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }) : "unknown";
  if (value) time.dateTime = value;
}

function clone(id) {
  return document.getElementById(id).content.cloneNode(true);
}

function paragraph(className, text) {
  const node = document.createElement("p");
  node.className = className;
  node.textContent = text;
  return node;
}

function button(text, onclick) {
  const node = document.createElement("button");
  node.type = "button";
  node.className = "button small";
  node.textContent = text;
  node.onclick = onclick;
  return node;
}
