// The calls of an app in JavaScript: browsers, React Native and Node 20 have `fetch`. Copy this file.
// `Device` is what an app needs; `Registry` makes the calls.

const TRIES = 6;
const TRIES_AT_SIGN_OUT = 2; // the user waits for it
const LONGEST_WAIT = 60; // seconds
// Too many requests, and what a proxy or the registry says of this moment. Every call may be repeated.
const LATER = [429, 502, 503, 504];

/** The session has ended: sign in again, then register again. */
export class SignedOutError extends Error {}

/** A registration is not tried again: a later push token came, or the user signs out. */
export class SupersededError extends Error {}

/** Any other answer than 200; `status` is the HTTP status, 0 where no try got an answer. */
export class RegistryError extends Error {
  constructor(status, text) {
    super(`${status} ${text}`);
    this.status = status;
  }
}

/** The registry, for one session. Where a later try can help, a call waits and tries again. */
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
   * `id` names the device, the same at each start: `deviceId`, or the `_id` of the first answer.
   * When the push token changes, the new one takes the place of the old one. Where `isWanted` says
   * no, there is no further try.
   */
  async register(type, value, appName, id, isWanted) {
    const fields = JSON.stringify({ type, value, appName, id }); // leaves out an undefined id
    return (await this.#call("POST", "push.token", fields, TRIES, isWanted)).result;
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
    await this.#call("POST", "logout", undefined, TRIES_AT_SIGN_OUT);
  }

  async #call(method, path, body, tries = TRIES, isWanted = () => true) {
    const headers = { ...this.#headers, "Content-Type": "application/json" };
    for (let tried = 1; ; tried++) {
      let status = 0; // no answer, or half of one
      let told = null;
      let text;
      try {
        const signal = AbortSignal.timeout(15_000);
        const answer = await fetch(this.#url + path, { method, headers, body, signal });
        ({ status } = answer);
        told = answer.headers.get("Retry-After");
        text = await answer.text(); // also lets the connection be used again
        if (answer.ok) return JSON.parse(text);
      } catch (error) {
        status = 0;
        text = String(error.cause ?? error);
      }
      if (status === 401) throw new SignedOutError();
      if (![0, ...LATER].includes(status) || tried === tries || !isWanted()) {
        throw new RegistryError(status, text);
      }
      await new Promise((resolve) => setTimeout(resolve, wait(told, tried) * 1000));
      if (!isWanted()) throw new SupersededError();
    }
  }
}

/**
 * The seconds before the next try: as Retry-After says, else 1, 2, 4 and so on.
 *
 * Many phones get the same Retry-After: a random part keeps them from returning at once.
 */
export function wait(told, tried) {
  let seconds = 2 ** (tried - 1);
  if (told && /^\d+$/.test(told)) seconds = Number(told);
  else if (told && !Number.isNaN(Date.parse(told))) seconds = (Date.parse(told) - Date.now()) / 1000;
  return Math.min(Math.max(seconds, 0), LONGEST_WAIT) * (1 + Math.random() / 2);
}

/** This app on this device, while one user is signed in. */
export class Device {
  #registry;
  #appName;
  #id;
  #turn = Promise.resolve();
  #latest = 0;
  #isSignedOut = false;

  constructor(registry, appName, id) {
    this.#registry = registry;
    this.#appName = appName;
    this.#id = id;
  }

  /**
   * Register at every start, and whenever a push token comes.
   *
   * One registration is made at a time, so that an old push token never arrives after a new one.
   * Resolves to null where a later push token came meanwhile, or the user signed out.
   */
  register(type, value) {
    const mine = ++this.#latest;
    const isWanted = () => mine === this.#latest && !this.#isSignedOut;
    const done = this.#turn.then(async () => {
      if (!isWanted()) return null;
      try {
        return await this.#registry.register(type, value, this.#appName, this.#id, isWanted);
      } catch (error) {
        if (isWanted()) throw error;
        return null;
      }
    });
    this.#turn = done.catch(() => {});
    return done;
  }

  /**
   * Sign the user out: the registry first, as the session's auth token is still good.
   *
   * A registration that is under way needs no waiting for: the registry takes it with the session,
   * or refuses it. Resolves to false where the registry could not be told. Then delete the push
   * token on the device, so that nothing reaches it any more.
   */
  async signOut(signOutOfProvider) {
    this.#isSignedOut = true;
    let isTold = true;
    try {
      await this.#registry.logOut();
    } catch (error) {
      // A 401: it had ended, or the answer to the first try was lost.
      isTold = error instanceof SignedOutError;
    }
    await signOutOfProvider();
    return isTold;
  }
}

/**
 * The device's name, kept in `localStorage` or what has its methods, such as React Native's
 * AsyncStorage; it is made at the first call.
 */
export async function deviceId(storage, make = () => crypto.randomUUID()) {
  const kept = await storage.getItem("push-token-device-id");
  if (kept) return kept;
  const made = make();
  await storage.setItem("push-token-device-id", made);
  return made;
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
