const { createHmac, timingSafeEqual } = require("crypto");
const key = JSON.parse(process.env.BUTTRESS_WORLD).key;
const port = {
  admits({ token }) {
    const at = token.indexOf("."), given = Buffer.from(at < 0 ? "" : token.slice(at + 1));
    const due = Buffer.from(createHmac("sha256", key).update(at < 0 ? token : token.slice(0, at)).digest("hex"));
    return given.length === due.length && timingSafeEqual(given, due);
  },
};
require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
  const { call, args, id } = JSON.parse(line);
  console.log(JSON.stringify({ ok: call === "hello" ? Object.keys(port) : port[call](args), id }));
});
