// The honest receiver, with noise on stdout around every answer: words, broken JSON, and JSON that is no answer.
const say = console.log;
console.log = (answer) => [">>> answering", '{"level":"info",', '{"level":"info","msg":"ok"}', answer, "null", "[1]", "done"].forEach((line) => say(line));
require("../../../examples/webhooks/receiver.js");
