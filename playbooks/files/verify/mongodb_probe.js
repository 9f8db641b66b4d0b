// Compares the database with what the role mongodb was told to make of it (config/state.json), as the application's
// user. The playbook verify runs it in the container. Prints a list of checks, {name, ok, detail, fix}; changes nothing.
const fs = require('fs');

const UNAUTHORIZED = 13;
const REDEPLOY = 'Run gpuops.fleet.deploy for this host; it restores what was declared.';

const wanted = JSON.parse(fs.readFileSync('/mnt/config/state.json', 'utf8'));
const server = '127.0.0.1:27017/?directConnection=true&serverSelectionTimeoutMS=15000';
const checks = [];

function check(name, fix, probe) {
  try {
    const [ok, detail] = probe();
    checks.push({ name, ok, detail, fix: ok ? '' : fix });
  } catch (error) {
    checks.push({ name, ok: false, detail: String(error.message), fix });
  }
}

function asApplication() {
  const password = fs.readFileSync('/run/secrets/app_password', 'utf8').trim();
  const login = `${encodeURIComponent(wanted.app_username)}:${encodeURIComponent(password)}@`;
  return new Mongo(`mongodb://${login}${server}&authSource=${wanted.database}`).getDB(wanted.database);
}

check('refuses whoever has no password', 'Look at journalctl --unit=mongodb.service before using it.', () => {
  const answer = () => new Mongo(`mongodb://${server}`).getDB(wanted.database).runCommand({ find: 'gpus', limit: 1 });
  try {
    answer();
  } catch (error) {
    return [error.code === UNAUTHORIZED, `a read without a login: ${error.message}`];
  }
  return [false, 'a read without a login was answered'];
});

check(`has the database ${wanted.database} for its user ${wanted.app_username}`, REDEPLOY, () => {
  const names = asApplication().getCollectionNames().sort();
  return [names.length > 0, `collections: ${names.join(', ') || 'none'}`];
});

check('has the declared GPU seed documents', REDEPLOY, () => {
  const names = asApplication().getCollection('gpus').find().toArray().map((one) => one.name);
  const missing = wanted.gpu_seeds.map((seed) => seed.name).filter((name) => !names.includes(name));
  return [missing.length === 0, missing.length > 0 ? `missing: ${missing.join(', ')}` : names.sort().join(', ')];
});

check('has the declared indexes', REDEPLOY, () => {
  const database = asApplication();
  const missing = wanted.indexes.filter((index) => {
    const found = database.getCollection(index.collection).getIndexes();
    return !found.some((one) => JSON.stringify(one.key) === JSON.stringify(index.keys) && (one.unique === true) === (index.unique === true));
  });
  const described = (missing.length > 0 ? missing : wanted.indexes).map((one) => `${one.collection} ${JSON.stringify(one.keys)}`);
  return [missing.length === 0, `${missing.length > 0 ? 'missing: ' : ''}${described.join(', ')}`];
});

print(JSON.stringify(checks));
