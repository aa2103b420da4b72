// The event and the answer of a function, opened at their step of the diagram.

import * as localStack from "./local-stack.js";

/** The order of API Gateway's documentation. Other fields follow. */
const ORDER = ["version", "statusCode", "routeKey", "rawPath", "rawQueryString", "pathParameters", "headers", "body", "isBase64Encoded", "requestContext"];

/**
 * Makes a button for a step's label. The button opens the event or the answer.
 *
 * @param {{id: number, what: string}} call
 * @param {"event"|"answer"} part
 * @param {HTMLElement} step the element that shows it
 */
export function rawButton(call, part, step) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "peek";
  button.append(part, unseen(part === "event" ? ` of the call of ${call.what}` : ` of ${call.what}`));
  button.setAttribute("aria-expanded", "false");
  let shown = null;
  button.onclick = async () => {
    button.setAttribute("aria-expanded", String(!shown));
    if (shown) {
      shown.remove();
      shown = null;
      return;
    }
    shown = panel(part === "event" ? `The event of ${call.what}` : `The answer of ${call.what}`);
    step.append(shown);
    const what = await localStack.exchange(call.id).then((found) => found[part], (error) => error.message);
    if (shown) fill(shown, what);
  };
  return button;
}

function panel(title) {
  const view = document.getElementById("raw").content.firstElementChild.cloneNode(true);
  view.querySelector(".name").textContent = title;
  view.querySelector(".whole").setAttribute("aria-label", title);
  view.querySelector(".body").setAttribute("aria-label", `${title}: its body`);
  return view;
}

function fill(view, what) {
  write(view.querySelector(".whole"), ordered(what));
  const body = read(what?.body);
  if (body === undefined) return;
  write(view.querySelector(".body"), body);
  view.querySelector(".inner").hidden = false;
}

function ordered(what) {
  if (typeof what !== "object") return what;
  const names = [...ORDER.filter((name) => name in what), ...Object.keys(what).filter((name) => !ORDER.includes(name))];
  return Object.fromEntries(names.map((name) => [name, what[name]]));
}

function read(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // there is no body, or it is not JSON
  }
}

function write(pre, value) {
  pre.textContent = typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

function unseen(text) {
  const node = document.createElement("span");
  node.className = "unseen";
  node.textContent = text;
  return node;
}
