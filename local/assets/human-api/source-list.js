// The list of sources of both generations: search, connect, disconnect.

export class SourceList {
  #root;
  #list;
  #search;
  #only;
  #rows = new Map();
  #connected = new Set();
  #onToggle;

  /**
   * @param {HTMLElement} root
   * @param {{id: string, name: string, kind?: string}[]} catalogue
   * @param {{id: string, name: string}[]} connected
   * @param {(source: object, connect: boolean) => Promise<object[]>} onToggle resolves with the connected sources
   */
  constructor(root, catalogue, connected, onToggle) {
    this.#root = root;
    this.#onToggle = onToggle;
    root.append(document.getElementById("source-list").content.cloneNode(true));
    this.#list = root.querySelector("ul");
    this.#search = root.querySelector(".search input");
    this.#only = root.querySelector(".only input");
    this.#search.oninput = () => this.#filter();
    this.#only.onchange = () => this.#filter();

    const sources = new Map([...connected, ...catalogue].map((source) => [source.id, source]));
    for (const source of sources.values()) this.#rows.set(source.id, this.#row(source));
    this.#list.append(...[...this.#rows.values()].map(({ item }) => item));
    this.update(connected);
  }

  focus() {
    this.#search.focus();
  }

  update(connected) {
    this.#connected = new Set(connected.map(({ id }) => id));
    for (const [id, { item, source }] of this.#rows) {
      const on = this.#connected.has(id);
      item.classList.toggle("connected", on);
      item.querySelector(".state").textContent = on ? "Connected" : "";
      const button = item.querySelector("button");
      button.textContent = on ? "Disconnect" : "Connect";
      button.setAttribute("aria-label", `${button.textContent} ${source.name}`);
    }
    this.#root.querySelector(".count").textContent = `(${this.#connected.size})`;
    this.#filter();
  }

  #row(source) {
    const item = document.getElementById("source").content.firstElementChild.cloneNode(true);
    item.querySelector(".initials").textContent = initials(source.name);
    item.querySelector(".name").textContent = source.name;
    item.querySelector(".kind").textContent = source.kind ?? "";
    item.dataset.hue = [...source.id].reduce((sum, letter) => sum + letter.codePointAt(0), 0) % 5;
    item.querySelector("button").onclick = () => this.#toggle(source, item);
    return { item, source };
  }

  async #toggle(source, item) {
    if (this.#root.hasAttribute("aria-busy")) return;
    const connect = !this.#connected.has(source.id);
    this.#root.setAttribute("aria-busy", "true");
    item.querySelector(".state").textContent = connect ? "Connecting…" : "Disconnecting…";
    try {
      this.update(await this.#onToggle(source, connect));
      this.#root.querySelector(".said").textContent = `${source.name} ${connect ? "connected" : "disconnected"}.`;
    } finally {
      this.#root.removeAttribute("aria-busy");
    }
  }

  #filter() {
    const wanted = this.#search.value.trim().toLowerCase();
    let shown = 0;
    for (const [id, { item, source }] of this.#rows) {
      const found = `${source.name} ${source.kind ?? ""}`.toLowerCase().includes(wanted);
      // a row that was just disconnected stays while it has the focus
      item.hidden = !found || (this.#only.checked && !this.#connected.has(id) && !item.contains(document.activeElement));
      shown += item.hidden ? 0 : 1;
    }
    const nothing = this.#root.querySelector(".nothing");
    nothing.hidden = shown > 0;
    nothing.textContent = wanted ? `No source matches “${this.#search.value.trim()}”.` : "Nothing is connected yet.";
  }
}

function initials(name) {
  return name.split(/\s+/).slice(0, 2).map((word) => [...word][0] ?? "").join("").toUpperCase();
}
