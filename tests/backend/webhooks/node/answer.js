// Answers JSON lines: {"call", ...} in, {"ok": value} or {"err": kind} out. The packages come from the folder in argv[2].
const { createRequire } = require("module");
const load = createRequire(process.argv[2] + "/package.json");
const { Webhook } = load("standardwebhooks");
const stripe = load("stripe")("sk_test_none");
const bytes = (text) => Buffer.from(text, "base64");
const calls = {
  standard_sign: (a) => new Webhook(a.secret).sign(a.id, new Date(a.at * 1000), bytes(a.body)),
  standard_verify: (a) => { new Webhook(a.secret).verify(bytes(a.body), a.headers, { jsonParse: false }); return true; },
  stripe_sign: (a) => stripe.webhooks.generateTestHeaderString({ payload: bytes(a.body).toString(), secret: a.secret, timestamp: a.at, ...(a.scheme && { scheme: a.scheme }) }),
  stripe_verify: (a) => stripe.webhooks.signature.verifyHeader(bytes(a.body), a.headers["stripe-signature"], a.secret, a.tolerance),
};
require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
  const { call, ...args } = JSON.parse(line);
  let answer;
  try { answer = { ok: calls[call](args) }; } catch (error) { answer = { err: String(error.message).slice(0, 200) }; }
  process.stdout.write(JSON.stringify(answer) + "\n");
});
