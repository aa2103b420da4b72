// Converts calls to the rows of a sequence diagram.

/** All lanes, from left to right. */
const LANES = ["operator", "another backend", "browser", "API Gateway", "function", "DynamoDB", "Secrets Manager", "Human API"];
/** Only these lanes are hidden if they have no call. The others keep their places. */
const SELDOM = ["operator", "another backend"];
/** Longer idle times, in milliseconds, are shown as a pause. */
const LONG = 1000;

/** @typedef {{id: number, request: number|null, began: number, from: string, to: string, what: string, status: number|null, ms: number|null}} Call */
/** @typedef {{call: Call, kind: "request"|"answer"|"exchange", at: number}} Step */
/** @typedef {{kind: "pause", at: number, ms: number}} Pause */

/** @param {Call[]} calls */
export function lanes(calls) {
  return LANES.filter((lane) => !SELDOM.includes(lane) || calls.some(({ from }) => from === lane));
}

/**
 * A call has two steps, request and answer. If nothing else happens between them, it has one.
 *
 * @param {Call[]} calls
 * @returns {(Step|Pause)[]}
 */
export function steps(calls) {
  const all = calls.flatMap((call) => {
    const request = { call, kind: "request", at: call.began };
    if (call.ms === null) return [request];
    if (calls.every((other) => other === call || outside(call, other))) return [{ ...request, kind: "exchange" }];
    return [request, { call, kind: "answer", at: end(call) }];
  });
  return withPauses(all.sort((one, other) => one.at - other.at));
}

/** Returns the lanes that are at work during a step. */
export function active(calls, step) {
  const works = ({ to }) => to === "API Gateway" || to === "function";
  return calls.filter((call) => works(call) && call.began <= step.at && step.at <= end(call)).map((call) => ({
    lane: call.to,
    edge: call === step.call ? step.kind : "",
  }));
}

export const end = (call) => (call.ms === null ? Infinity : call.began + call.ms);

function outside(call, other) {
  const within = (at) => call.began <= at && at <= end(call);
  return !within(other.began) && !within(end(other));
}

function withPauses(all) {
  let idle = Infinity; // start of the idle time
  let under = 0;
  return all.flatMap((step) => {
    const pause = under === 0 && step.at - idle > LONG ? [{ kind: "pause", at: idle, ms: step.at - idle }] : [];
    if (step.kind === "request") under += 1;
    if (step.kind === "answer") under -= 1;
    idle = step.kind === "exchange" ? end(step.call) : step.at;
    return [...pause, step];
  });
}
