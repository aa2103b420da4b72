// Your app provides two values: the backend's address, and the JWT of the signed-in user.

/** The stack's `ApiUrl`, or your custom domain. */
export const api = "https://abc123.execute-api.us-east-1.amazonaws.com";

/** Gets the token from your identity provider's library. If `refresh` is true, the last token may have expired: return a new one. */
export async function getToken(refresh) {
  const session = await window.yourIdentityProvider.session({ forceRefresh: refresh });
  return session.idToken;
}
