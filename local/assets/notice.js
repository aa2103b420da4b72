// The one notice that says how the last thing went.

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

  /** Says what went wrong; `again` is offered where the same thing may succeed. */
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

/** What the popup says to a user it knows needs a word more. */
function explain({ code, message }) {
  if (code !== "widget" || !/already exists/i.test(message)) return message;
  return "Human API knows this user, and no public token was given. The Connect widget brings the user back.";
}

function mayPass({ status, code, retryAfter }) {
  return status >= 500 || retryAfter || code === "network";
}
