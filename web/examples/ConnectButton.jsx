import { useEffect, useState } from "react";
import { call, connect, resume } from "./human-connect-backend.js";

/** `backend` is `{ api, getToken }`; `client` is Human API's: `import HumanConnect from "humanapi-connect-client"`. */
export function ConnectButton({ backend, client }) {
  const [connection, setConnection] = useState();
  const [busy, setBusy] = useState(true);
  const [error, setError] = useState(null);
  const options = { ...backend, client: () => client };

  /** One thing at a time: an answer that comes late must not hide a newer one. */
  function run(work) {
    setBusy(true);
    setError(null);
    work.then(setConnection, setError).finally(() => setBusy(false));
  }

  // what a reload has cut off; else what is connected
  useEffect(() => {
    run(resume(options).then((finished) => finished ?? call(options, "GET /connect/connection")));
  }, [backend]); // another user: another backend object

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
