// Sends by firebase-admin for Node, and reports its errors: with_firebase_admin.mjs APP PUSH_TOKEN…

import { initializeApp } from "firebase-admin/app";
import { getMessaging } from "firebase-admin/messaging";

const [appName, ...pushTokens] = process.argv.slice(2);
const { FCM_ACCESS_TOKEN, FIREBASE_PROJECT, REGISTRY_URL, REGISTRY_KEY } = process.env;
// Usually `cert("service-account.json")`.
const credential = {
  getAccessToken: async () => ({ access_token: FCM_ACCESS_TOKEN, expires_in: 3600 }),
};
initializeApp({ credential, projectId: FIREBASE_PROJECT });

const sentAt = new Date().toISOString();
const messages = pushTokens.map((token) => ({ token, notification: { body: "Hello" } }));
const { responses } = await getMessaging().sendEach(messages);
const results = [];
responses.forEach((sent, place) => {
  if (sent.success) return;
  const verdict = { appName, value: pushTokens[place], provider: "fcm", sentAt };
  // glue
  verdict.error = sent.error;
  // end
  results.push(verdict);
});

const answer = await fetch(`${REGISTRY_URL}/api/v1/push.tokens.feedback`, {
  method: "POST",
  headers: { Authorization: `Bearer ${REGISTRY_KEY}`, "Content-Type": "application/json" },
  body: JSON.stringify({ results, each: true }),
});
console.log(await answer.text());
process.exit(answer.ok ? 0 : 1);
