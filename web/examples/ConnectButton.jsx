import HumanConnect from "humanapi-connect-client";
import { useHumanConnect } from "human-connect/react";

/** `user` is any value that changes with the signed-in user. */
export function ConnectButton({ api, getToken, user }) {
  const { connect, connection, status, error } = useHumanConnect({ api, getToken, user, loadClient: () => HumanConnect });
  return (
    <section>
      <p role="status">
        {error ? `That did not work: ${error.message}`
          : !connection ? "…"
          : connection.connected ? `Connected: ${connection.sources.map((source) => source.name).join(", ") || "yes"}`
          : "Nothing connected yet."}
      </p>
      <button disabled={status === "loading" || status === "connecting"} onClick={() => connect()}>
        {connection?.connected ? "Change what is connected" : "Connect health data"}
      </button>
    </section>
  );
}
