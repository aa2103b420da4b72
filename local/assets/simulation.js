// The simulation: changes of the record, the stand-in and the secrets, and the tasks of `maintenance`.

import * as localStack from "./local-stack.js";

const IMPORTED = 100; // users

export class Simulation {
  /**
   * @param {{singleUse: boolean, delayMs: number}} now
   * @param {(action: () => Promise<{title: string, next: string}>) => void} flip runs the action and reports its result
   * @param {() => string} user returns the user that the switches change
   */
  constructor(now, flip, user) {
    const singleUse = document.getElementById("single-use");
    singleUse.checked = now.singleUse;
    singleUse.onchange = () => flip(() => localStack.simulate("single-use", { on: singleUse.checked }));

    const delay = document.getElementById("delay");
    choose(delay, now.delayMs);
    delay.onchange = () => flip(() => localStack.simulate("delay", { ms: Number(delay.value) }));

    const press = (id, action) => (document.getElementById(id).onclick = () => flip(action));
    press("lose", () => localStack.simulate("lose-public-token", { user: user() }));
    press("expire-tokens", () => localStack.simulate("expire-tokens", { user: user() }));
    press("drop-user", () => localStack.simulate("drop-user", { user: user() }));
    press("rotate-secret", () => localStack.simulate("rotate-secret"));
    press("rotate-key", () => localStack.simulate("rotate-sealing-key"));
    press("sweep", sweep);
    press("reseal", reseal);
    press("import", importUsers);
  }
}

async function sweep() {
  const { resolved, failed, skipped, left } = await localStack.maintain({ task: "sweep" });
  return { title: "The task sweep has run.", next: `Resolved: ${resolved}, failed: ${failed}, skipped: ${skipped}, left unresolved: ${left}.` };
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
  return { title: "The task reseal has run.", next: `Resealed: ${total.resealed}, unchanged: ${total.unchanged}, failed: ${total.failed}.` };
}

/** Imports popup users as another database could have them. */
async function importUsers() {
  const users = Array.from({ length: IMPORTED }, (_, index) => {
    const number = String(index + 1).padStart(3, "0");
    return {
      clientUserId: `imported-${number}`,
      humanId: `made-up-human-id-${number}`,
      accessToken: `made-up-access-token-${number}`,
      publicToken: `made-up-public-token-${number}`,
      connectedAt: "2020-01-02T03:04:05Z",
    };
  });
  const { results } = await localStack.maintain({ task: "import", users });
  const counts = Object.entries(Object.groupBy(results, ({ result }) => result)).map(([result, { length }]) => `${result}: ${length}`);
  return { title: "The task import has run.", next: `${counts.join(", ")}. Their ids are imported-001 to imported-${IMPORTED}.` };
}

function choose(select, ms) {
  if (![...select.options].some((option) => Number(option.value) === ms)) select.add(new Option(`after ${ms / 1000} s`, ms));
  select.value = String(ms);
}
