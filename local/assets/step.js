// One row of a sequence diagram: an arrow, or a pause.

import { duration } from "./duration.js";
import { rawButton } from "./raw.js";
import { requestButtons } from "./request.js";

const template = document.getElementById("step");

/**
 * @param {import("./steps.js").Step|import("./steps.js").Pause} step
 * @param {string[]} lanes
 * @param {number} start the start time of the diagram
 * @param {(request: object) => void} onAgain
 */
export function row(step, lanes, start, onAgain) {
  return step.kind === "pause" ? pause(step) : arrow(step, lanes, start, onAgain);
}

function arrow({ call, kind, at }, lanes, start, onAgain) {
  const item = template.content.firstElementChild.cloneNode(true);
  const { from, to, what, status, ms } = call;
  const ends = [lanes.indexOf(from), lanes.indexOf(to)];
  const line = item.querySelector(".arrow");
  line.dataset.left = Math.min(...ends);
  line.dataset.right = Math.max(...ends);
  item.classList.add(kind);
  item.classList.toggle("leftward", ends[0] > ends[1]);
  item.querySelector(".offset").textContent = at > start ? `+${duration(at - start)}` : "0 ms";
  const [one, other] = kind === "answer" ? [to, from] : [from, to];
  item.querySelector(".from").textContent = one;
  item.querySelector(".to").textContent = other;
  item.querySelector(".what").textContent = what;

  const label = item.querySelector(".label");
  if (kind !== "request") {
    const mark = item.querySelector(".status");
    mark.textContent = status || "no answer";
    const kindOf = grade(status);
    if (kindOf) item.classList.add(kindOf);
    item.querySelector(".took").textContent = duration(ms);
  } else if (ms === null) {
    item.classList.add("waiting");
    item.querySelector(".took").textContent = "waiting…";
  }
  for (const part of parts(call, kind)) label.append(rawButton(call, part, item));
  if (from === "browser" && to === "API Gateway" && kind !== "answer" && !what.startsWith("preflight")) label.append(...requestButtons(call, onAgain));
  return item;
}

/** @returns {""|"warn"|"bad"} the severity of an answer's status */
export function grade(status) {
  if (!status || status >= 500) return "bad";
  return status >= 400 ? "warn" : "";
}

/** Returns the parts that can be opened: a function's event and answer, or API Gateway's own refusal. */
function parts({ to, refused }, kind) {
  const all = to === "function" ? ["event", "answer"] : refused ? ["answer"] : [];
  if (kind === "exchange") return all;
  return all.filter((part) => (part === "event") === (kind === "request"));
}

function pause({ ms }) {
  const item = document.createElement("li");
  item.className = "pause";
  item.textContent = `${duration(ms)} later`;
  return item;
}

/** Shows on a row which lanes are at work. */
export function bars(item, active, lanes) {
  for (const bar of item.querySelectorAll(".bar")) bar.remove();
  for (const { lane, edge } of active) {
    const bar = document.createElement("i");
    bar.className = `bar ${edge}`;
    bar.dataset.lane = lanes.indexOf(lane);
    item.querySelector(".lanes").prepend(bar);
  }
}
