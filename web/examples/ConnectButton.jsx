import { useEffect, useState } from "react";
import { call, connect, resume } from "./human-connect-backend.js";

/** `backend` is `{ api, getToken }`; `client` is Human API's: `import HumanConnect from "humanapi-connect-client"`. */
export function ConnectButton({ backend, client }) {
  const [connection, setConnection] = useState(null);
  const [step, setStep] = useState("");
  const [error, setError] = useState(null);
  const options = { ...backend, client: () => client, onProgress: setStep };

  function run(work) {
    setError(null);
    work.then(setConnection, setError).finally(() => setStep(""));
  }

  useEffect(() => {
    run(resume(options).then((finished) => finished ?? call(options, "GET /connect/connection")));
  }, [backend.api]);

  return (
    <section>
      <p role="status">
        {error ? `That did not work: ${error.message}`
          : !connection ? "…"
          : connection.connected ? `Connected: ${connection.sources.map((source) => source.name).join(", ") || "yes"}`
          : "Nothing connected yet."}
      </p>
      <button disabled={step !== ""} onClick={() => run(connect(options))}>
        {connection?.connected ? "Change what is connected" : "Connect health data"}
      </button>
    </section>
  );
}
