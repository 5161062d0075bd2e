// A webhook receiver in Node, standard library only: a file that grows, on disk before each acknowledgement and each request.
//     buttress prove webhooks --subject "cmd:node examples/webhooks/receiver.js"
const fs = require("fs"), crypto = require("crypto"), { BUTTRESS_DIR, BUTTRESS_WORLD, BUTTRESS_CLOCK } = process.env;
const world = JSON.parse(BUTTRESS_WORLD), file = BUTTRESS_DIR + "/log", events = new Set(), effects = new Map();
const now = () => (BUTTRESS_CLOCK ? fs.readFileSync(BUTTRESS_CLOCK).readDoubleLE() : Date.now() / 1000);

function asks({ type, data }) { // an effect is named after what it is about: two events about one payment ask for the same one
  if (["invoice.paid", "checkout.session.completed", "payment_intent.succeeded"].includes(type))
    return ["orders", "emails", "credits"].map((to) => ({ key: `${to}:${data.payment}`, to, version: 0 }));
  return type === "order.updated" ? [{ key: `status:${data.order}`, to: "orders", version: data.version, object: data.order, status: data.status }] : [];
}
function learn({ id, body, key, version, state }) { // a line of the file: when it is written, and again at each start
  if (key) return effects.get(key).version === version && (effects.get(key).state = state);
  if (events.has(id)) return;
  events.add(id);
  for (const effect of asks(parse(body))) if (!(effects.get(effect.key)?.version >= effect.version)) effects.set(effect.key, effect);
}
function parse(text) { try { return JSON.parse(text); } catch { return {}; } } // a line that a kill cut short was never acknowledged
function keep(entry) { fs.writeSync(log, "\n" + JSON.stringify(entry)); fs.fsyncSync(log); learn(entry); }
if (fs.existsSync(file)) for (const line of fs.readFileSync(file, "utf8").split("\n")) learn(parse(line));
const log = fs.openSync(file, "a");

function genuine({ "webhook-id": id, "webhook-timestamp": sent, "webhook-signature": given = "" }, body) { // Standard Webhooks 1.0, v1
  const mac = crypto.createHmac("sha256", Buffer.from(world.secret, "base64")).update(`${id}.${sent}.${body}`).digest("base64"), v1 = Buffer.from("v1," + mac);
  return Math.abs(now() - Number(sent)) <= 300 && given.split(" ").some((one) => one.length === v1.length && crypto.timingSafeEqual(Buffer.from(one), v1));
}
async function send({ key, to, version, state, ...rest }) { // true: it happened. The line "doubt" is on disk before the request leaves
  if (to === "credits" && state === "doubt" && (await fetch(`${world.credits}/${encodeURIComponent(key)}`)).ok) return true; // no key honoured: look
  keep({ key, version, state: "doubt" });
  const headers = { "Idempotency-Key": `${key}:${version}` }, body = JSON.stringify({ reference: key, ...rest });
  return (await fetch(world[to], { method: "POST", headers, body, signal: AbortSignal.timeout(10_000) })).ok;
}
const port = {
  deliver: ({ headers, body }) => !genuine(headers, body) ? 401 : (events.has(headers["webhook-id"]) || keep({ id: headers["webhook-id"], body }), 200),
  async work() { // one effect after the other; what failed is due again in a minute
    for (const effect of effects.values()) if (effect.state !== "done" && (await send(effect).catch(() => false))) keep({ ...effect, state: "done" });
    return [...effects.values()].some(({ state }) => state !== "done") ? now() + 60 : null;
  },
};
require("readline").createInterface({ input: process.stdin }).on("line", async (line) => {
  const { call, args, id } = JSON.parse(line), answer = call === "hello" ? Object.keys(port) : await port[call](args);
  console.log(JSON.stringify({ ok: answer, id }));
});
