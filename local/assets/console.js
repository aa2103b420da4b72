// Connects the parts of the page: the app on the left, the calls on the right.

import { Calls } from "./calls.js";
import { clients } from "./clients.js";
import { ConnectionCard } from "./connection.js";
import { Events } from "./events.js";
import { Faults } from "./faults.js";
import { call, connect, resume } from "./human-connect-backend.js";
import * as localStack from "./local-stack.js";
import { Notice } from "./notice.js";
import { connectAsPhone } from "./phone.js";
import { clearProgress, progress } from "./progress.js";
import { RecordCard } from "./record.js";
import { StandIn } from "./stand-in.js";
import { UserPicker } from "./user.js";
import { chosenWay, wayPicker } from "./way.js";

// the widgets' pages may be embedded by this origin only
if (location.hostname === "localhost") location.hostname = "127.0.0.1";

const page = document.getElementById("page");
const app = document.getElementById("app");
const notice = new Notice(document.getElementById("notice"));
const calls = new Calls(() => faults?.show()); // a fault that fired once is over
const connection = new ConnectionCard();
const record = new RecordCard();
const picker = new UserPicker((person) => run(`Sign in as ${person.id}`, () => signIn(person)));

let faults;
let client; // loads Human API's client of a generation
let user; // {id, email, options} of the signed-in user
let opened; // the last opening of the widget: {flow, mode}
let busy = false;
let looks = 0;

/** Runs one action at a time, reports its result, then shows the changes. `again` runs on “Try again”. */
async function run(title, action, again = action) {
  if (busy) return;
  busy = true;
  app.setAttribute("aria-busy", "true");
  notice.clear();
  const opener = document.activeElement;
  const over = await calls.begin(title);
  try {
    await action();
  } catch (error) {
    notice.refused(`“${title}” did not succeed.`, error, () => run(title, again));
  } finally {
    busy = false;
    app.removeAttribute("aria-busy");
    clearProgress();
    if (document.activeElement === document.body) opener?.focus();
  }
  await look();
  await over();
}

async function signIn({ id, email }) {
  let jwt = await localStack.signIn(id, email);
  const options = {
    api: location.origin,
    client,
    getToken: async (refresh) => (jwt = refresh ? await localStack.signIn(id, email) : jwt),
    onProgress(step, detail) {
      if (step === "opened") opened = detail;
      progress(step, detail);
    },
  };
  user = { id, email, options };
  picker.show(user);
  connection.looking();
  hideAnswer();
}

/** Reads the connection and the record again. Answers to an earlier call are dropped. */
async function look() {
  if (!user) return;
  const { id, options } = user;
  const mine = (looks += 1);
  const ifLatest = (show) => (answer) => mine === looks && show(answer);
  const onProgress = (step, { seconds, code }) => mine === looks && connection.waiting(seconds, code);
  await Promise.all([
    call({ ...options, onProgress }, "GET /connect/connection")
      .then(ifLatest((answer) => connection.show(answer)), ifLatest((error) => connection.failed(error))),
    showRecord(),
  ]);
}

async function showRecord() {
  const { id } = user;
  const ifSame = (show) => (answer) => id === user.id && show(answer);
  await localStack.record(id).then(ifSame((answer) => record.show(id, answer)), ifSame((error) => record.failed(error)));
}

async function connectHealthData() {
  opened = undefined;
  const way = chosenWay();
  const answer = await (way === "phone" ? connectAsPhone(user.options) : connect({ ...user.options, flow: way }));
  const requested = way === "phone" ? "popup" : way;
  tell(answer, opened && modeLine(opened, requested));
}

/** Finishes a connect that a reload or a failure has interrupted. */
async function takeUp() {
  const answer = await resume(user.options);
  if (answer) tell(answer, "An interrupted connect is finished now.");
  return answer;
}

async function takeUpOrConnect() {
  const answer = await takeUp();
  if (!answer?.connected) await connectHealthData();
}

function tell({ connected }, detail) {
  notice.show({ title: connected ? "Your health data is connected." : "Closed. Nothing is connected.", detail });
}

function modeLine({ flow, mode }, requested) {
  const how = `The ${flow === "popup" ? "popup" : "Connect widget"} was opened in ${mode} mode.`;
  return flow === requested ? how : `${how} The backend chose it instead of the requested one.`;
}

async function recover() {
  const { recovered } = await call(user.options, "POST /connect/public-token");
  notice.show({
    title: recovered ? "The public token was recovered from Human API." : "The public token is stored; nothing to recover.",
  });
}

/** Calls an internal route as another backend, which names the user in the body. */
async function asBackend(what, more = {}) {
  const { route, status, body } = await localStack.asBackend(what, { clientUserId: user.id, ...more });
  document.getElementById("answer-title").textContent = `${route} answered ${status}`;
  document.getElementById("answer-body").textContent = body ? JSON.stringify(body, null, 2) : "no body";
  document.getElementById("answer").hidden = false;
}

async function accessToken() {
  await asBackend("access-token", { forceRefresh: document.getElementById("force-refresh").checked });
}

function hideAnswer() {
  document.getElementById("answer").hidden = true;
}

function askToForget() {
  const dialog = document.getElementById("forget-dialog");
  document.getElementById("forget-name").textContent = user.id;
  dialog.returnValue = "";
  dialog.onclose = () => {
    if (dialog.returnValue === "forget") run(`Forget ${user.id}`, forget);
  };
  dialog.showModal();
}

async function forget() {
  await call(user.options, "DELETE /connect/connection");
  hideAnswer();
  notice.show({ title: `Everything about ${user.id} is forgotten.` });
}

/** Runs a switch even while an action runs: the user may have to remove a fault while the app waits. */
async function flip(done, action) {
  try {
    const more = await action();
    notice.show({ title: done, detail: typeof more === "string" ? more : "" });
    await showRecord();
  } catch (error) {
    notice.refused("The switch failed.", error);
  }
}

function press(id, action) {
  document.getElementById(id).onclick = action;
}

async function start() {
  const state = await localStack.state();
  client = clients(state.widgetOrigin, page);
  faults = new Faults(state.faults, (error) => notice.refused("The fault could not be set.", error));
  new StandIn(state.standIn, flip, () => user.id);
  wayPicker();
  calls.follow();
  new Events((id) => run(`Sign in as ${id}`, () => signIn({ id, email: null }))).follow();
  const person = picker.remembered();
  await run(`Sign in as ${person.id}`, async () => {
    await signIn(person);
    await takeUp();
  });
  press("connect", () => run("Connect health data", connectHealthData, takeUpOrConnect));
  press("forget", askToForget);
  press("recover", () => run("Recover the public token", recover));
  press("access", () => run("Get an access token", accessToken));
  press("backend-connection", () => run("Look at a connection", () => asBackend("connection")));
  press("backend-forget", () => run(`Forget ${user.id} from another backend`, () => asBackend("forget")));
  press("record-refresh", showRecord);
}

start().catch((error) => notice.refused("The console could not start.", error, () => location.reload()));
