// Connects the parts of the page: the app on the left, the calls and the simulation on the right.

import { Calls } from "./calls.js";
import { clients } from "./clients.js";
import { Code } from "./code.js";
import { ConnectionCard } from "./connection.js";
import { Events } from "./events.js";
import { Faults } from "./faults.js";
import { createHumanConnect } from "./human-connect.js";
import * as localStack from "./local-stack.js";
import { Notice } from "./notice.js";
import { connectAsPhone } from "./phone.js";
import { clearProgress, progress } from "./progress.js";
import { RecordCard } from "./record.js";
import { Simulation } from "./simulation.js";
import { tick } from "./tour.js";
import { UserPicker } from "./user.js";
import { chosenWay, wayPicker } from "./way.js";

// the stand-in knows the console by this name
if (location.hostname === "localhost") location.hostname = "127.0.0.1";

const app = document.getElementById("app");
const cancel = document.getElementById("cancel");
const controls = document.querySelectorAll("fieldset.controls");
const notice = new Notice(document.getElementById("notice"));
const calls = new Calls(() => faults?.show(), again); // a fault for one call may be over
const record = new RecordCard();
const connection = new ConnectionCard(() => look());
const picker = new UserPicker((person) => run(`Sign in as ${person.id}`, () => signIn(person)));

let faults;
let loadClient; // loads Human API's client of a generation
let user; // {id, email, getToken, backend}
let opened; // the last opening of the widget: {flow, mode}
let changes = 0; // sources that the open widget has connected or disconnected
let current = null; // {title, controller} of the action that runs
let queued = null; // runs after the current action
let looking = new AbortController();

/** Runs one action at a time, reports its result, then shows the changes. `again` runs on “Try again”. */
async function run(title, action, again = action) {
  if (current) return;
  looking.abort();
  const opener = document.activeElement; // a disabled button loses the focus
  current = { title, controller: new AbortController() };
  setBusy(true);
  notice.clear();
  let id;
  try {
    id = await calls.begin(title);
    await action(current.controller.signal);
  } catch (error) {
    if (current.controller.signal.aborted) notice.show({ title: `Canceled: ${title}`, detail: "The backend may have performed a part of it." });
    else await failed(title, error, () => run(title, again));
  }
  const itsCalls = id === undefined ? [] : await calls.end(id).catch(() => []);
  if (itsCalls.some(isRecovery)) {
    tick("recover");
    notice.add("The public token was lost. The backend has recovered it from Human API, and the user has seen nothing of it.");
  }
  current = null;
  setBusy(false);
  clearProgress();
  if (document.activeElement === document.body) opener?.focus();
  const next = queued;
  queued = null;
  if (next) next();
  else await look();
}

async function failed(title, error, again) {
  if (faults?.active.some((fault) => fault.startsWith("Human API"))) tick("down");
  notice.refused(`“${title}” has failed.`, error, again);
}

const isRecovery = ({ to, what, status }) => to === "Human API" && /publictokens/.test(what) && status === 200;

function setBusy(busy) {
  app.setAttribute("aria-busy", String(busy));
  for (const fieldset of controls) fieldset.disabled = busy;
  cancel.hidden = !busy;
}

async function signIn({ id, email }) {
  let jwt = await localStack.signIn(id, email);
  const getToken = async (refresh) => (jwt = refresh ? await localStack.signIn(id, email) : jwt);
  user = { id, email, getToken, backend: createHumanConnect({ api: location.origin, getToken, loadClient, onEvent }) };
  picker.show(user);
  connection.looking();
  hideAnswer();
}

function onEvent(event) {
  if (event.type === "opened") [opened, changes] = [event, 0];
  if (event.type === "source-connected" || event.type === "source-disconnected") changes += 1;
  if (event.type === "waiting" && faults?.active.some((fault) => fault.startsWith("Human API"))) tick("down");
  progress(event);
}

/** Reads the connection and the record again. The diagram hides these calls, because the app did not cause them. */
async function look() {
  if (!user) return;
  looking.abort();
  const mine = (looking = new AbortController());
  const { getToken, id } = user;
  const onEvent = (event) => {
    if (event.type === "waiting") connection.waiting(event, () => mine.abort());
  };
  const reader = createHumanConnect({ api: location.origin, getToken, onEvent });
  const action = await localStack.beginAction(`The console reads the connection of ${id}`, "console").catch(() => null);
  const reading = reader.getConnection({ signal: mine.signal }).then(
    (answer) => mine.signal.aborted || connection.show(answer),
    (error) => mine === looking && connection.failed(error),
  );
  await Promise.all([reading, showRecord()]);
  if (action) await localStack.endAction(action).catch(() => {});
}

async function showRecord() {
  const { id } = user;
  const ifSame = (show) => (answer) => id === user.id && show(answer);
  await localStack.record(id).then(ifSame((answer) => record.show(id, answer)), ifSame((error) => record.failed(error)));
}

async function connectHealthData(signal) {
  opened = undefined;
  const before = connection.isConnected;
  const way = chosenWay();
  const answer = await (way === "phone" ? connectAsPhone(user.backend, loadClient, onEvent, signal) : user.backend.connect({ flow: way, signal }));
  if (answer.connected) tick("connect");
  const detail = opened && openedAs(opened, way === "phone" ? "popup" : way);
  if (answer.connected === before && changes === 0 && opened) notice.show({ title: "The widget was closed. Nothing has changed.", detail });
  else tell(answer, detail);
}

/** Finishes a session that a reload or a failure has interrupted. */
async function takeUp(signal) {
  const answer = await user.backend.resume({ signal });
  if (!answer) return null;
  tick("reload");
  tell(answer, "A reload or a failure had interrupted this connect. It is finished now.");
  return answer;
}

async function takeUpOrConnect(signal) {
  const answer = await takeUp(signal);
  if (!answer?.connected) await connectHealthData(signal);
}

function tell({ connected }, detail) {
  notice.show({ title: connected ? "Your health data is connected." : "Nothing is connected.", detail });
}

function openedAs({ flow, mode }, requested) {
  const how = `The ${flow === "popup" ? "popup" : "Connect widget"} was opened in ${mode} mode.`;
  return flow === requested ? how : `${how} The backend has chosen this widget.`;
}

async function recover(signal) {
  const { recovered } = await user.backend.getPublicToken({ signal });
  if (recovered) notice.show({ title: "The backend has recovered the public token from Human API." });
  else notice.show({ title: "Our record has the public token.", detail: "Lose it in the simulation, and try again." });
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
  const { id, backend } = user;
  const dialog = document.getElementById("forget-dialog");
  document.getElementById("forget-name").textContent = id;
  dialog.returnValue = "";
  dialog.onclose = () => {
    if (dialog.returnValue !== "forget") return;
    const forget = () => run(`Forget ${id}`, async (signal) => {
      await backend.forget({ signal });
      tick("forget");
      hideAnswer();
      notice.show({ title: `The backend has forgotten ${id}.` });
    });
    if (!current) return void forget();
    queued = forget;
    notice.show({ title: `“Forget ${id}” follows.`, detail: `It waits until “${current.title}” has ended. Cancel that to go on now.` });
  };
  dialog.showModal();
}

/** Sends a request of the history again. */
function again(request) {
  run(`Again: ${request.method} ${request.path}`, async (signal) => {
    const response = await fetch(request.path, { ...request, signal });
    const text = await response.text();
    notice.show({ title: `${request.method} ${request.path} answered ${response.status}.`, detail: text.slice(0, 300) });
  });
}

/** Runs a switch even while an action runs: the user may have to end a fault while the app waits. */
async function flip(action) {
  try {
    const { title, next } = await action();
    notice.show({ title, detail: next });
    await Promise.all([showRecord(), faults.show(), calls.poll()]);
  } catch (error) {
    notice.refused("The simulation has not changed.", error);
  }
}

function press(id, action) {
  document.getElementById(id).onclick = action;
}

async function start() {
  const state = await localStack.state();
  loadClient = clients(state.widgetOrigin);
  faults = new Faults(state.faults, flip);
  new Simulation(state.standIn, flip, () => user.id);
  const code = new Code();
  wayPicker((way) => code.show(way));
  new Events((id) => run(`Sign in as ${id}`, () => signIn({ id, email: null }))).follow();
  const person = picker.remembered();
  await run(`Sign in as ${person.id}`, async (signal) => {
    await signIn(person);
    await takeUp(signal);
  });
  press("connect", () => run("Connect health data", connectHealthData, takeUpOrConnect));
  press("cancel", () => current?.controller.abort());
  press("forget", askToForget);
  press("recover", () => run("Recover the public token", recover));
  press("access", () => run("Get an access token", accessToken));
  press("backend-connection", () => run("Another backend reads the connection", () => asBackend("connection")));
  press("backend-forget", () => run(`Another backend forgets ${user.id}`, () => asBackend("forget")));
  press("record-refresh", showRecord);
  calls.follow();
}

start().catch((error) => notice.refused("The console could not start.", error, () => location.reload()));
