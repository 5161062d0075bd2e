const fs = require("fs"), http = require("http"), { pbkdf2Sync } = require("crypto");
const file = process.env.BUTTRESS_DIR + "/document";
const render = (text) => `<h1>${text}</h1><!-- ${pbkdf2Sync(text, "", 10000, 32, "sha256").toString("hex")} -->`;
let body = render(fs.existsSync(file) ? fs.readFileSync(file, "utf8") : "");
const server = http.createServer((_, answer) => answer.end(body)).listen(0, "127.0.0.1");
const port = {
  serve: async () => { if (!server.listening) await new Promise((done) => server.once("listening", done)); return `http://127.0.0.1:${server.address().port}/`; },
  edit: ({ text }) => { fs.writeFileSync(file, text); body = render(text); },
};
require("readline").createInterface({ input: process.stdin }).on("line", async (line) => {
  const { call, args, id } = JSON.parse(line);
  console.log(JSON.stringify({ ok: (call === "hello" ? Object.keys(port) : await port[call](args)) ?? null, id }));
}).on("close", () => process.exit());
