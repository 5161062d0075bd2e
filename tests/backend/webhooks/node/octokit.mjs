// GitHub's own signer and verifier. A JSON line in: {"sign" | "verify", "secret", "body" (base64), "signature"}; a JSON value a line out.
// The package is ESM only and lies in the folder in argv[2], outside of the repository.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const { sign, verify } = await import(pathToFileURL(process.argv[2] + "/node_modules/@octokit/webhooks-methods/dist-node/index.js"));
for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  const body = Buffer.from(asked.body, "base64").toString();
  const answer = asked.call === "sign" ? await sign(asked.secret, body) : await verify(asked.secret, body, asked.signature);
  process.stdout.write(JSON.stringify(answer) + "\n");
}
