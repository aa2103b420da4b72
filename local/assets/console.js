// Wires the page: the app on the left, what happened on the right.

import { Backend } from "./backend.js";
import { Calls } from "./calls.js";
import { ConnectionCard } from "./connection.js";
import { Faults } from "./faults.js";
import * as laptop from "./laptop.js";
import { Notice } from "./notice.js";
import { RecordCard } from "./record.js";
import { StandIn } from "./stand-in.js";
import { UserPicker } from "./user.js";
import { openWidget } from "./widget.js";

const page = document.getElementById("page");
const mobile = document.getElementById("mobile");
const notice = new Notice(document.getElementById("notice"));
const calls = new Calls();
const connection = new ConnectionCard();
const record = new RecordCard();
const picker = new UserPicker((person) => run("Signing in failed.", () => signIn(person)));

let faults;
let widgetOrigin;
let user; // {id, email, backend} of whoever is signed in
let busy = false;
let looks = 0;

/** Runs one thing at a time, says how it went, then shows what changed. */
async function run(title, action) {
  if (busy) return;
  busy = true;
  page.setAttribute("aria-busy", "true");
  notice.clear();
  const opener = document.activeElement;
  try {
    await action();
  } catch (error) {
    notice.refused(title, error, () => run(title, action));
  } finally {
    busy = false;
    page.removeAttribute("aria-busy");
    if (document.activeElement === document.body) opener?.focus();
  }
  await look();
}

async function signIn({ id, email }) {
  let jwt = await laptop.signIn(id, email);
  const token = async (fresh) => {
    if (fresh) jwt = await laptop.signIn(id, email);
    return jwt;
  };
  user = { id, email, backend: new Backend(token, waiting) };
  picker.show(user);
  connection.looking();
  hideAnswer();
}

function waiting(seconds, tryNumber) {
  notice.show({ title: `The server asks for patience. Try ${tryNumber} in ${Math.ceil(seconds)} s.`, kind: "wait" });
}

/** Reads again what is connected and what is stored. Answers of an earlier look are dropped. */
async function look() {
  if (!user) return;
  const { id, backend } = user;
  const mine = (looks += 1);
  const ifLatest = (show) => (answer) => mine === looks && show(answer);
  await Promise.all([
    faults?.show(),
    backend.connection().then(ifLatest((answer) => connection.show(answer)), ifLatest((error) => connection.failed(error))),
    laptop.record(id).then(ifLatest((answer) => record.show(id, answer)), ifLatest((error) => record.failed(error))),
  ]);
  await calls.poll();
}

async function connect() {
  const asked = document.querySelector("input[name=flow]:checked").value;
  const session = await user.backend.startSession({ flow: asked });
  calls.poll();
  const { callback, error } = await openWidget(session, widgetOrigin, page);
  if (error) {
    notice.show({ title: error.message, detail: advice(error), code: error.code, kind: "bad" });
  } else if (!callback) {
    notice.show({ title: "Closed. Nothing was added.", detail: modeLine(session, asked) });
  } else {
    await finish(session, callback, asked);
  }
}

/** Posts the widget's callback. A failed post can be sent again as it is: the backend exchanges a session once. */
async function finish(session, callback, asked) {
  const byTicket = session.flow === "popup" && mobile.checked;
  try {
    const answer = byTicket
      ? await user.backend.finishByTicket(session.finishUrl, callback)
      : await user.backend.finish(callback);
    tell(answer, session, callback, asked);
  } catch (error) {
    notice.refused("The connection could not be finished.", error, () => run("", () => finish(session, callback, asked)));
  }
}

function tell(answer, session, callback, asked) {
  if (/SESSION_TOKEN/.test(callback.status)) {
    notice.show({
      title: "The widget’s session was over.",
      detail: "The backend has dropped that token and will ask for a new one.",
      code: callback.status,
      kind: "bad",
      act: ["Open it again", () => run("The widget could not be opened.", connect)],
    });
  } else {
    notice.show({
      title: answer.connected ? "Your health data is connected." : "Closed. Nothing is connected.",
      detail: modeLine(session, asked),
    });
  }
}

function modeLine({ flow, mode }, asked) {
  const opened = `The ${flow === "popup" ? "popup" : "Connect widget"} was opened in ${mode} mode.`;
  return flow === asked ? opened : `${opened} The backend chose it over the one you asked for.`;
}

function advice({ code, detailedMessage }) {
  if (code === "USER_ALREADY_EXISTS") return "Human API knows this user, and no public token was given. The Connect widget brings the user back.";
  return detailedMessage ?? "";
}

async function recover() {
  const { recovered } = await user.backend.publicToken();
  notice.show({
    title: recovered ? "The public token was recovered from Human API." : "The public token is stored; nothing to recover.",
  });
}

async function accessToken() {
  const { status, body } = await laptop.accessToken(user.id, document.getElementById("force-refresh").checked);
  document.getElementById("answer-title").textContent = `POST /internal/access-token answered ${status}`;
  document.getElementById("answer-body").textContent = JSON.stringify(body, null, 2);
  document.getElementById("answer").hidden = false;
}

function hideAnswer() {
  document.getElementById("answer").hidden = true;
}

function askToForget() {
  const dialog = document.getElementById("forget-dialog");
  document.getElementById("forget-name").textContent = user.id;
  dialog.returnValue = "";
  dialog.onclose = () => {
    if (dialog.returnValue === "forget") run("The user could not be forgotten.", forget);
  };
  dialog.showModal();
}

async function forget() {
  await user.backend.forget();
  hideAnswer();
  notice.show({ title: `Everything about ${user.id} is forgotten.` });
}

function showMobileChoice() {
  document.getElementById("mobile-row").hidden = document.querySelector("input[name=flow]:checked").value !== "popup";
}

function press(id, action) {
  document.getElementById(id).onclick = action;
}

async function start() {
  const state = await laptop.state();
  widgetOrigin = state.widgetOrigin;
  calls.follow();
  await signIn(picker.remembered());
  press("connect", () => run("The widget could not be opened.", connect));
  press("forget", askToForget);
  press("recover", () => run("The public token could not be recovered.", recover));
  press("access", () => run("The access token could not be fetched.", accessToken));
  press("record-refresh", look);
  for (const input of document.querySelectorAll("input[name=flow]")) input.onchange = showMobileChoice;
  showMobileChoice();
  new StandIn(state.standIn, (done, action) => run("The switch did not move.", async () => {
    await action();
    notice.show({ title: done });
  }), () => user.id);
  faults = new Faults(state.faults, (error) => notice.refused("The fault could not be set.", error));
  await look();
}

start().catch((error) => notice.refused("The console could not start.", error, () => location.reload()));
