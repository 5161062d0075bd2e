// jsonwebtoken (npm), as its documentation says: jwt.verify(token, key, { algorithms }).
//   node jsonwebtoken.js MODULES                           a subject of the proof, on stdin and stdout
//   node jsonwebtoken.js MODULES KEYFILE RS256,HS256       a small HTTP gateway for the probe; "-" for the algorithms: none are named
'use strict';
const [modules, keyFile, named] = process.argv.slice(2);
const jwt = require(require('path').join(modules, 'jsonwebtoken'));
const crypto = require('crypto'), fs = require('fs'), http = require('http');

if (keyFile) {
  const key = keyFile === 'empty' ? '' : fs.readFileSync(keyFile, 'utf8');
  const options = named === '-' ? {} : { algorithms: named.split(',') };
  const server = http.createServer((request, response) => {
    let status = 401;
    try { jwt.verify((request.headers.authorization || '').replace(/^Bearer /, ''), key, options); status = 200; } catch (error) { status = 401; }
    response.writeHead(status); response.end(status === 200 ? 'welcome' : 'no');
  });
  server.listen(0, '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}/`));
} else {
  const world = JSON.parse(process.env.BUTTRESS_WORLD), clock = fs.openSync(process.env.BUTTRESS_CLOCK, 'r');
  const now = () => { const bytes = Buffer.alloc(8); fs.readSync(clock, bytes, 0, 8, 0); return bytes.readDoubleLE(0); };
  let keys = {}, fetched = null, tried = null;
  const get = (url) => new Promise((resolve) => {
    const request = http.get(url, { agent: new http.Agent() }, (answer) => {
      let body = ''; answer.on('data', (part) => { body += part; }); answer.on('end', () => resolve([answer.statusCode, body]));
    });
    request.on('error', () => resolve([0, '']));
  });
  const keyOf = async (kid) => {
    const at = now();
    if ((fetched === null || at > fetched + 300 || !(kid in keys)) && (tried === null || at >= tried + 10)) {
      tried = at;
      const [status, body] = await get(world.jwks);
      if (status === 200) {
        keys = Object.fromEntries(JSON.parse(body).keys.filter((jwk) => jwk.alg === 'RS256').map((jwk) =>
          [jwk.kid, crypto.createPublicKey({ key: jwk, format: 'jwk' }).export({ type: 'spki', format: 'pem' })]));
        fetched = at;
      }
    }
    if (fetched === null || at > fetched + 3600 || !(kid in keys)) throw new Error('no key');
    return keys[kid];
  };
  const calls = {
    hello: async () => ['takes', 'request'],
    takes: async () => ['RS256'],
    request: async ({ id, authorization }) => {
      try {
        const token = authorization.replace(/^Bearer /, '');
        const { kid } = JSON.parse(Buffer.from(token.split('.')[0], 'base64url').toString());
        const claims = jwt.verify(token, await keyOf(kid), { algorithms: ['RS256', 'HS256'], ignoreExpiration: true, ignoreNotBefore: true,
          issuer: world.issuer, audience: world.audience });
        const at = now();  // times are judged by the proof's clock, for all libraries in the same way
        if (!(at < claims.exp + 30) || claims.nbf > at + 30 || claims.iat > at + 30) return 401;
      } catch (error) { return 401; }
      return (await get(`${world.application}/${id}`))[0];
    },
  };
  let queue = Promise.resolve();
  require('readline').createInterface({ input: process.stdin }).on('line', (line) => {
    queue = queue.then(async () => {
      const { call, args, id } = JSON.parse(line);
      let answer;
      try { answer = { ok: await calls[call](args || {}) }; } catch (error) { answer = { err: String(error) }; }
      process.stdout.write(JSON.stringify(id === undefined ? answer : { ...answer, id }) + '\n');
    });
  });
}
