// The notice with the result of the last action. Good news leaves by itself; an error stays until the user closes it.

import { HumanConnectError } from "./human-connect.js";

const LEAVES_AFTER_MS = 10_000;
/** Codes of the browser client and of API Gateway. The others are the backend's, and have a row in the table of errors. */
const OWN_CODES = ["gateway", "network", "widget", "user_changed", "not_json"];

export class Notice {
  #root;
  #template = document.getElementById("notice-body");
  #timer;

  constructor(root) {
    this.#root = root;
    addEventListener("keydown", ({ key }) => {
      if (key === "Escape" && !document.querySelector("dialog[open]")) this.#close();
    });
  }

  /** @param {{title: string, detail?: string, code?: string, help?: string, kind?: "good"|"bad", act?: [string, () => void]}} what */
  show({ title, detail = "", code = "", help, kind = "good", act }) {
    this.clear();
    const body = document.createElement("div");
    body.className = `body ${kind}`;
    body.append(this.#template.content.cloneNode(true));
    body.querySelector(".title").textContent = title;
    body.querySelector(".detail").textContent = detail;
    body.querySelector(".code").textContent = code;
    const link = body.querySelector(".help");
    if (help) link.href = `/errors#${help}`;
    else link.remove();
    body.querySelector(".close").onclick = () => this.#close();
    const button = body.querySelector(".act");
    if (act) {
      button.textContent = act[0];
      button.onclick = () => {
        this.clear();
        act[1]();
      };
    } else {
      button.remove();
    }
    this.#root.setAttribute("aria-live", kind === "bad" ? "assertive" : "polite");
    this.#root.replaceChildren(body);
    if (kind === "good") this.#leaveLater();
  }

  /** Adds a sentence to the notice, or shows it alone. */
  add(text) {
    const detail = this.#root.querySelector(".detail");
    if (detail) detail.textContent = `${detail.textContent} ${text}`.trim();
    else this.show({ title: text });
  }

  /** Reports a failure. Offers `again` if another attempt may succeed. */
  refused(title, error, again) {
    const known = error instanceof HumanConnectError;
    if (!known) console.error(error);
    const code = known ? [error.status || null, error.code, error.requestId && `request ${error.requestId}`] : [];
    this.show({
      title,
      detail: explain(error),
      code: code.filter(Boolean).join(" · "),
      help: known && !OWN_CODES.includes(error.code) ? error.code : undefined,
      kind: "bad",
      act: known && again && mayPass(error) ? ["Try again", again] : undefined,
    });
  }

  clear() {
    clearTimeout(this.#timer);
    this.#root.replaceChildren();
  }

  #close() {
    const hadFocus = this.#root.contains(document.activeElement);
    this.clear();
    if (hadFocus) document.getElementById("app").focus({ preventScroll: true });
  }

  #leaveLater() {
    this.#timer = setTimeout(() => {
      if (this.#root.matches(":hover, :focus-within")) this.#leaveLater();
      else this.clear();
    }, LEAVES_AFTER_MS);
  }
}

/** Extends the popup's message to a user that Human API knows. */
function explain({ code, message }) {
  if (code !== "widget" || !/already exists/i.test(message)) return message;
  return "Human API knows this user, and the app has no public token. The user can come back through the Connect widget.";
}

function mayPass({ status, code, retryAfter }) {
  return status >= 500 || retryAfter || code === "network";
}
