// The notice with the result of the last action.

import { ConnectError } from "./human-connect-backend.js";

export class Notice {
  #root;
  #template = document.getElementById("notice-body");

  constructor(root) {
    this.#root = root;
  }

  /** @param {{title: string, detail?: string, code?: string, kind?: "good"|"bad", act?: [string, () => void]}} what */
  show({ title, detail = "", code = "", kind = "good", act }) {
    const body = document.createElement("div");
    body.className = `body ${kind}`;
    body.append(this.#template.content.cloneNode(true));
    body.querySelector(".title").textContent = title;
    body.querySelector(".detail").textContent = detail;
    body.querySelector(".code").textContent = code;
    body.querySelector(".close").onclick = () => {
      this.clear();
      document.getElementById("app").focus({ preventScroll: true });
    };
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
  }

  /** Reports a failure. Offers `again` if another attempt may succeed. */
  refused(title, error, again) {
    const known = error instanceof ConnectError;
    if (!known) console.error(error);
    const code = known ? [error.status || null, error.code, error.requestId && `request ${error.requestId}`] : [];
    this.show({
      title,
      detail: explain(error),
      code: code.filter(Boolean).join(" · "),
      kind: "bad",
      act: known && again && mayPass(error) ? ["Try again", again] : undefined,
    });
  }

  clear() {
    this.#root.replaceChildren();
  }
}

/** Extends the popup's message to a user that Human API knows. */
function explain({ code, message }) {
  if (code !== "widget" || !/already exists/i.test(message)) return message;
  return "Human API knows this user, and no public token was given. The user can return through the Connect widget.";
}

function mayPass({ status, code, retryAfter }) {
  return status >= 500 || retryAfter || code === "network";
}
