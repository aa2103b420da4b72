import { useEffect, useRef, useState } from "react";
import { call, connect, resume } from "./human-connect-backend.js";

/**
 * `backend` is `{ api, getToken }`. `user` can be any value that changes with the signed-in user. `client` is Human API's client:
 * `import HumanConnect from "humanapi-connect-client"`.
 */
export function ConnectButton({ backend, user, client }) {
  const [connection, setConnection] = useState();
  const [error, setError] = useState();
  const [busy, setBusy] = useState(true);
  const latest = useRef(0);
  const options = { ...backend, client: () => client };

  /** A late answer must not replace a newer one, and must never be shown to the next user. */
  function run(work) {
    const mine = (latest.current += 1);
    const ifLatest = (show) => (value) => void (mine === latest.current && show(value));
    setBusy(true);
    setError();
    work.then(ifLatest(setConnection), ifLatest(setError)).finally(ifLatest(() => setBusy(false)));
  }

  // finishes a session that a reload interrupted, or waits for an open widget; otherwise shows the connection
  useEffect(() => {
    setConnection();
    run(resume(options).then((finished) => finished ?? call(options, "GET /connect/connection")));
    return () => void (latest.current += 1);
  }, [user]);

  return (
    <section>
      <p role="status">
        {error ? `That did not work: ${error.message}`
          : !connection ? "…"
          : connection.connected ? `Connected: ${connection.sources.map((source) => source.name).join(", ") || "yes"}`
          : "Nothing connected yet."}
      </p>
      <button disabled={busy} onClick={() => run(connect(options))}>
        {connection?.connected ? "Change what is connected" : "Connect health data"}
      </button>
    </section>
  );
}
