// Runs scenarios of examples/apps/push_token.mjs's Device: tests/examples/test_devices.py.

import { readFileSync, writeFileSync } from "node:fs";
import { Device, deviceId, Registry } from "../../examples/apps/push_token.mjs";

const { REGISTRY_URL, USER_ID, AUTH_TOKEN } = process.env;
const device = new Device(new Registry(REGISTRY_URL, USER_ID, AUTH_TOKEN), "chat.example", "device-1");
const [scenario, ...values] = process.argv.slice(2);
const answers = {};

/** What a browser's localStorage is, with asynchronous methods as React Native's. */
const storage = {
  async getItem() {
    try {
      return readFileSync(values[0], "utf8");
    } catch {
      return null;
    }
  },
  async setItem(_, value) {
    writeFileSync(values[0], value);
  },
};

/** Ask the relay that stands before the registry; give the number that it answers. */
const ask = async (path) => Number(await (await fetch(REGISTRY_URL + path)).text());

if (scenario === "device-id") {
  console.log(JSON.stringify([await deviceId(storage), await deviceId(storage)]));
} else {
  const registering = [];
  for (const value of values) {
    registering.push(device.register("gcm", value).then((one) => (answers[value] = one !== null)));
    while (scenario !== "register" && (await ask("/seen")) < 1) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  if (scenario === "rotate") await ask("/release");
  if (scenario === "sign-out") answers.told = await device.signOut(() => ask("/provider"));
  await Promise.all(registering);
  console.log(JSON.stringify(answers));
}
