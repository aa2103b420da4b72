// The switches of the Human API stand-in, and buttons that run the tasks of `maintenance`.

import * as localStack from "./local-stack.js";

const IMPORTED = 100; // users

export class StandIn {
  /**
   * @param {{singleUse: boolean, delayMs: number}} now
   * @param {(title: string, action: () => Promise<any>) => void} run runs the action. It reports the title and the returned text.
   * @param {() => string} user returns the user that the switches change
   */
  constructor(now, run, user) {
    const singleUse = document.getElementById("single-use");
    singleUse.checked = now.singleUse;
    singleUse.onchange = () => {
      const on = singleUse.checked;
      run(on ? "Session tokens now work once." : "Session tokens may be used again.", () => localStack.standIn("single-use", { on }));
    };

    const delay = document.getElementById("delay");
    choose(delay, now.delayMs);
    delay.onchange = () => {
      const ms = Number(delay.value);
      run(ms ? `Human API now takes ${ms / 1000} s to answer.` : "Human API answers at once.", () => localStack.standIn("delay", { ms }));
    };

    press("rotate-secret", () => run("The client secret was rotated.", () => localStack.standIn("rotate-secret")));
    press("rotate-key", () => run("The sealing key was rotated. The task reseal seals all rows with the new key.", () => localStack.standIn("rotate-sealing-key")));
    press("reseal", () => run("The task reseal has run.", reseal));
    press("expire-tokens", () => run(`The tokens of ${user()} have expired.`, () => localStack.standIn("expire-tokens", { user: user() })));
    press("drop-user", () => run(`Human API has dropped ${user()}.`, () => localStack.standIn("drop-user", { user: user() })));
    press("sweep", () => run("The task sweep has run.", async () => {
      const { resolved, failed, skipped, left } = await localStack.maintain({ task: "sweep" });
      return `Resolved: ${resolved}, failed: ${failed}, skipped: ${skipped}, left unresolved: ${left}.`;
    }));
    press("import", () => run("The task import has run.", async () => {
      const { results } = await localStack.maintain({ task: "import", users: madeUpUsers() });
      const counts = Object.entries(Object.groupBy(results, ({ result }) => result));
      return `${counts.map(([result, { length }]) => `${result}: ${length}`).join(", ")}. Their ids are imported-001 to imported-${IMPORTED}.`;
    }));
    press("lose", () => run(`The public token of ${user()} is lost.`, () => localStack.standIn("lose-public-token", { user: user() })));
  }
}

/** Walks through the whole table. */
async function reseal() {
  const total = { resealed: 0, unchanged: 0, failed: 0 };
  for (let after = null, ended = false; !ended; ended = after === null) {
    const page = await localStack.maintain({ task: "reseal", after });
    for (const name of Object.keys(total)) total[name] += page[name];
    if (page.next === after) break; // a row could not be read now
    after = page.next;
  }
  return `Resealed: ${total.resealed}, unchanged: ${total.unchanged}, failed: ${total.failed}.`;
}

/** Popup users as another database could have them. */
function madeUpUsers() {
  return Array.from({ length: IMPORTED }, (_, index) => {
    const number = String(index + 1).padStart(3, "0");
    return {
      clientUserId: `imported-${number}`,
      humanId: `made-up-human-id-${number}`,
      accessToken: `made-up-access-token-${number}`,
      publicToken: `made-up-public-token-${number}`,
      connectedAt: "2020-01-02T03:04:05Z",
    };
  });
}

function choose(select, ms) {
  if (![...select.options].some((option) => Number(option.value) === ms)) select.add(new Option(`${ms / 1000} s`, ms));
  select.value = String(ms);
}

function press(id, action) {
  document.getElementById(id).onclick = action;
}
