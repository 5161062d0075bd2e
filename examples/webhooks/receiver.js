// A webhook receiver in Node, standard library only: a file that grows, on disk before each acknowledgement and each request.
//     buttress prove webhooks --subject "cmd:node examples/webhooks/receiver.js"
const fs = require("fs"), crypto = require("crypto"), { BUTTRESS_DIR, BUTTRESS_WORLD, BUTTRESS_CLOCK } = process.env;
const world = JSON.parse(BUTTRESS_WORLD), file = BUTTRESS_DIR + "/log", events = new Set(), effects = new Map();
const now = () => (BUTTRESS_CLOCK ? fs.readFileSync(BUTTRESS_CLOCK).readDoubleLE() : Date.now() / 1000);

function asks(event) { // an effect is named after what it is about: two events about one payment ask for the same one
  const { payment, order, version, status } = event?.data ?? {};
  if (payment && ["invoice.paid", "checkout.session.completed", "payment_intent.succeeded"].includes(event.type))
    return ["orders", "emails", "credits"].map((to) => ({ key: `${to}:${payment}`, to, version: 0 }));
  return order && event.type === "order.updated" ? [{ key: `status:${order}`, to: "orders", version, object: order, status }] : [];
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
const log = fs.openSync(file, "a"), started = now();

function genuine({ "webhook-id": id, "webhook-timestamp": sent, "webhook-signature": given = "" }, body) { // Standard Webhooks 1.0, v1
  const mac = crypto.createHmac("sha256", Buffer.from(world.secret, "base64")).update(`${id}.${sent}.${body}`).digest("base64");
  const fits = (one) => one.length === mac.length + 3 && crypto.timingSafeEqual(Buffer.from(one, "latin1"), Buffer.from("v1," + mac));
  return Math.abs(now() - Number(sent)) <= 300 && given.split(" ").some(fits);
}
async function send({ key, to, version, state, ...rest }) { // true: it happened; the doubt is on disk before the request leaves
  if (to === "credits" && state === "doubt") { // honours no key: look, but not while the request of a process that was killed may still be at work
    if (now() < started + 10) return false;
    if ((await fetch(`${world.credits}/${encodeURIComponent(key)}`)).ok) return true;
  }
  keep({ key, version, state: "doubt" });
  const headers = { "Idempotency-Key": `${key}:${version}` }, body = JSON.stringify({ reference: key, ...rest });
  return (await fetch(world[to], { method: "POST", headers, body, signal: AbortSignal.timeout(10_000) })).ok;
}
const port = {
  deliver({ headers, body }) {
    if (!genuine(headers, body)) return 401;
    if (!events.has(headers["webhook-id"])) keep({ id: headers["webhook-id"], body });
    return 200; // only now: it is on disk
  },
  async work() { // one effect after the other; what failed is due again in a minute
    for (const effect of effects.values()) if (effect.state !== "done" && (await send(effect).catch(() => false))) keep({ ...effect, state: "done" });
    return [...effects.values()].some(({ state }) => state !== "done") ? now() + 60 : null;
  },
};
require("readline").createInterface({ input: process.stdin }).on("close", () => process.exit()).on("line", async (line) => {
  const { call, args, id } = JSON.parse(line);
  const answer = await (async () => ({ ok: call === "hello" ? Object.keys(port) : await port[call](args) }))().catch((error) => ({ err: String(error) }));
  console.log(JSON.stringify({ ...answer, id }));
});
