// Five things to try. They tick themselves, and stay ticked in this browser.

const KEY = "human-connect.tried";
const list = document.getElementById("tour");
const tried = new Set(stored());

for (const step of tried) show(step);
document.getElementById("intro").hidden = tried.size > 0;

export function tick(step) {
  tried.add(step);
  show(step);
  document.getElementById("intro").hidden = true;
  try {
    localStorage.setItem(KEY, JSON.stringify([...tried]));
  } catch {
    // without storage, the ticks last until the page is left
  }
}

function stored() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? [];
  } catch {
    return [];
  }
}

function show(step) {
  const item = list.querySelector(`[data-step="${step}"]`);
  if (!item || item.classList.contains("done")) return;
  item.classList.add("done");
  const done = document.createElement("span");
  done.className = "unseen";
  done.textContent = " (done)";
  item.append(done);
}
