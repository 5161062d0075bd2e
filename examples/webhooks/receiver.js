// A webhook receiver in Node, standard library only: a file that grows, on disk before each acknowledgement and each request.
//     buttress prove webhooks --subject "cmd:node examples/webhooks/receiver.js"
const fs = require("fs"), crypto = require("crypto"), { BUTTRESS_DIR, BUTTRESS_WORLD, BUTTRESS_CLOCK } = process.env;
const world = JSON.parse(BUTTRESS_WORLD), file = BUTTRESS_DIR + "/log", seen = new Set(), effects = new Map();
const now = () => (BUTTRESS_CLOCK ? fs.readFileSync(BUTTRESS_CLOCK).readDoubleLE() : Date.now() / 1000), started = now();
const parse = (text) => { try { return JSON.parse(text) ?? {}; } catch { return {}; } }; // a line cut short by a kill was never acknowledged
const keep = (line) => { fs.writeSync(log, "\n" + JSON.stringify(line)); fs.fsyncSync(log); learn(line); };

function learn({ id, body, key, version, state }) { // a line of the file: when it is written, and again at each start
  if (key) return effects.get(key).version === version && (effects.get(key).state = state);
  if (seen.has(id)) return;
  seen.add(id);
  const { type, data } = parse(body), asked = [];
  if (["invoice.paid", "checkout.session.completed", "payment_intent.succeeded"].includes(type) && data?.payment)
    for (const to of ["orders", "emails", "credits"]) asked.push({ key: `${to}:${data.payment}`, to, version: 0, reference: `${to}:${data.payment}` });
  if (type === "order.updated" && data?.order)
    asked.push({ key: data.order, to: "orders", version: data.version, reference: `status:${id}`, object: data.order, status: data.status });
  for (const effect of asked) if (!(effects.get(effect.key)?.version >= effect.version)) effects.set(effect.key, effect); // known, or newer already
}
if (fs.existsSync(file)) for (const line of fs.readFileSync(file, "utf8").split("\n")) learn(parse(line));
const log = fs.openSync(file, "a");

function genuine({ "webhook-id": id, "webhook-timestamp": sent, "webhook-signature": given = "" }, body) { // Standard Webhooks 1.0, v1
  const v1 = "v1," + crypto.createHmac("sha256", Buffer.from(world.secret, "base64")).update(`${id}.${sent}.${body}`).digest("base64");
  const fits = (one) => one.length === v1.length && crypto.timingSafeEqual(Buffer.from(one, "latin1"), Buffer.from(v1));
  return Math.abs(now() - Number(sent)) <= 300 && given.split(" ").some(fits);
}
async function send({ key, to, version, state, ...rest }) { // true: it happened. The doubt is on disk before the request leaves
  if (to === "credits" && state === "doubt") { // no key is honoured there: look, once no request of a killed process can be at work
    if (now() < started + 10) return false;
    const { status } = await fetch(`${world.credits}/${encodeURIComponent(key)}`, { signal: AbortSignal.timeout(10_000) });
    if (status !== 404) return status === 200;
  }
  keep({ key, version, state: "doubt" });
  const headers = { "Idempotency-Key": `${key}:${version}` }, body = JSON.stringify(rest);
  return (await fetch(world[to], { method: "POST", headers, body, signal: AbortSignal.timeout(10_000) })).ok;
}
const port = {
  deliver: ({ headers, body }) => {
    if (!genuine(headers, body)) return 401;
    if (!seen.has(headers["webhook-id"])) keep({ id: headers["webhook-id"], body });
    return 200; // only now: it is on disk
  },
  work: async () => { // one effect after the other; what failed is due again in a minute
    for (const effect of effects.values()) if (effect.state !== "done" && (await send(effect).catch(() => false))) keep({ ...effect, state: "done" });
    return [...effects.values()].some(({ state }) => state !== "done") ? now() + 60 : null;
  },
};
require("readline").createInterface({ input: process.stdin }).on("close", () => process.exit()).on("line", async (line) => {
  const { call, args, id } = JSON.parse(line), answer = call === "hello" ? async () => Object.keys(port) : port[call];
  console.log(JSON.stringify(await Promise.resolve(args).then(answer).then((ok) => ({ ok, id }), (error) => ({ err: String(error), id }))));
});
