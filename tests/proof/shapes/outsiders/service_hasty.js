// Answers first and stores every second time: what a kill after a reply finds out, without a failpoint.
const fs = require("fs"), book = process.env.BUTTRESS_DIR + "/book";
let pending = [];
const port = {
  take({ order }) {
    pending.push(order);
    if (pending.length === 2) { fs.appendFileSync(book, pending.join("\n") + "\n"); pending = []; }
    return "taken";
  },
  served: () => fs.existsSync(book) ? fs.readFileSync(book, "utf8").split("\n").filter(Boolean) : [],
};
require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
  const { call, args, id } = JSON.parse(line);
  console.log(JSON.stringify({ ok: call === "hello" ? Object.keys(port) : port[call](args), id }));
});
