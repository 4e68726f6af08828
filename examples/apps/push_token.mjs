// The calls of an app in JavaScript: browsers, React Native and Node 20 have `fetch`.

const TRIES = 5;
const LONGEST_WAIT = 60; // seconds

/** The session has ended: sign in again, then register again. */
export class SignedOutError extends Error {}

/** Any other answer than 200; `status` is the HTTP status. */
export class RegistryError extends Error {
  constructor(status, text) {
    super(`${status} ${text}`);
    this.status = status;
  }
}

/** The registry, for one session. */
export class Registry {
  #url;
  #headers;

  constructor(url, userId, authToken) {
    this.#url = `${url}/api/v1/`;
    this.#headers = { "X-User-Id": userId, "X-Auth-Token": authToken };
  }

  /**
   * Register at every start of the app; `type` is `apn` or `gcm`.
   *
   * `id` names the device, the same at each start: a UUID that the app keeps, or the `_id` of the
   * first answer. When the push token changes, the new one takes the place of the old one.
   */
  async register(type, value, appName, id) {
    const fields = JSON.stringify({ type, value, appName, id }); // leaves out an undefined id
    return (await this.#call("POST", "push.token", fields)).result;
  }

  /** The user's own registrations, the latest renewed first. */
  async list() {
    return (await this.#call("GET", "push.token")).tokens;
  }

  /** Stop pushes to this push token; false when none of the user's was there. */
  async remove(value) {
    try {
      // Not in the body: some proxies strip the body of a DELETE.
      await this.#call("DELETE", `push.token?token=${encodeURIComponent(value)}`);
    } catch (error) {
      if (error.status !== 404) throw error;
      return false;
    }
    return true;
  }

  /** End the session and its registrations. */
  async logOut() {
    await this.#call("POST", "logout");
  }

  async #call(method, path, body) {
    const headers = { ...this.#headers, "Content-Type": "application/json" };
    for (let triesLeft = TRIES - 1; ; triesLeft--) {
      const signal = AbortSignal.timeout(15_000);
      const answer = await fetch(this.#url + path, { method, headers, body, signal });
      if (answer.ok) return answer.json();
      if (answer.status === 401) throw new SignedOutError();
      if (![429, 503].includes(answer.status) || triesLeft === 0) {
        throw new RegistryError(answer.status, await answer.text());
      }
      await answer.text(); // lets the connection be used again
      const wait = Math.min(Number(answer.headers.get("Retry-After")) || 5, LONGEST_WAIT);
      // All phones got the same Retry-After: jitter keeps them from returning at once.
      const spread = 1 + Math.random() / 2;
      await new Promise((resolve) => setTimeout(resolve, wait * spread * 1000));
    }
  }
}

/** Make one call and print the answer; exit status 4 when the session has ended. */
async function main(call, ...args) {
  const { REGISTRY_URL, USER_ID, AUTH_TOKEN } = process.env;
  const registry = new Registry(REGISTRY_URL, USER_ID, AUTH_TOKEN);
  try {
    const answer = await registry[call === "log_out" ? "logOut" : call](...args);
    console.log(JSON.stringify(answer ?? null));
  } catch (error) {
    if (!(error instanceof SignedOutError)) throw error;
    console.error("signed out: sign in again, then register again");
    process.exitCode = 4;
  }
}

// Not run when an app imports the file.
if (globalThis.process?.argv[1]?.endsWith("push_token.mjs")) await main(...process.argv.slice(2));
