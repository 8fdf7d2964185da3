// Loaded before Artillery, which else starts a worker a core and divides the phases among them: one schedule is what the report needs.
'use strict';

const os = require('node:os');

const cores = os.cpus();
os.cpus = () => cores.slice(0, 1);
