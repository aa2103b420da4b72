// The user's row. The server has replaced sealed values by their key version.

export class RecordCard {
  #root = document.getElementById("record");
  #row = document.getElementById("record-row");
  #user = null;
  #before = {};

  show(user, record) {
    const before = user === this.#user ? this.#before : (record ?? {});
    if (record === null) {
      this.#root.replaceChildren(empty(`The table has no row for ${user}.`));
    } else {
      const list = document.createElement("dl");
      for (const [key, value] of Object.entries(record)) list.append(this.#entry(key, words(value), words(before[key])));
      this.#root.replaceChildren(list);
    }
    this.#user = user;
    this.#before = record ?? {};
  }

  failed(error) {
    this.#root.replaceChildren(empty(`The record could not be read. ${error.message}`));
  }

  #entry(key, text, before) {
    const row = this.#row.content.firstElementChild.cloneNode(true);
    row.querySelector("dt").textContent = key;
    const value = row.querySelector("dd");
    value.textContent = text;
    value.classList.toggle("sealed", text.startsWith("sealed"));
    value.classList.toggle("masked", text.startsWith("•"));
    row.classList.toggle("changed", text !== before);
    return row;
  }
}

/** Shows a list with one entry per line. */
function words(value) {
  if (typeof value === "string") return value;
  if (Array.isArray(value) && value.length > 0) return value.map((entry) => JSON.stringify(entry)).join("\n");
  return JSON.stringify(value) ?? "";
}

function empty(text) {
  const node = document.createElement("p");
  node.className = "empty";
  node.textContent = text;
  return node;
}
