const fs = require("fs"), book = process.env.BUTTRESS_DIR + "/book";
const served = () => fs.existsSync(book) ? fs.readFileSync(book, "utf8").split("\n").filter(Boolean) : [];
const port = {
  take({ order }) { if (!served().includes(order)) fs.appendFileSync(book, order + "\n"); return "taken"; },
  served,
};
require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
  const { call, args, id } = JSON.parse(line);
  console.log(JSON.stringify({ ok: call === "hello" ? Object.keys(port) : port[call](args), id }));
});
