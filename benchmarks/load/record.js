// Artillery's hooks: a sound as the body of each request, and two lines a request in the record:
//   sent NUMBER TIME    and, when the whole answer is there,    answered NUMBER TIME CODE REQUEST-ID
// Times are seconds since 1970, from a clock that does not jump.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { performance } = require('node:perf_hooks');

const folder = process.env.RECORD_SOUNDS;
const sounds = fs.readdirSync(folder).sort().map((name) => fs.readFileSync(path.join(folder, name)));
const record = fs.openSync(process.env.RECORD_TO, 'a');
let count = 0;

const note = (...words) => fs.writeSync(record, words.join(' ') + '\n');
const now = () => ((performance.timeOrigin + performance.now()) / 1000).toFixed(6);

module.exports = {
  send(request, context, events, done) {
    const number = count++;
    context.vars.number = number;
    request.body = sounds[number % sounds.length];
    const id = `load-${number}`;
    request.headers = { 'content-type': 'application/octet-stream', 'x-request-id': id, connection: 'close' };
    note('sent', number, now());
    done();
  },

  note(request, response, context, events, done) {
    note('answered', context.vars.number, now(), response.statusCode, response.headers['x-request-id'] || '-');
    done();
  },
};
