// What node-postgres does through an encrypted connection whose server it verifies.
const assert = require("node:assert");
const fs = require("node:fs");
const { createRequire } = require("node:module");
const { Pool } = createRequire(process.env.NODE_CLIENTS + "/")("pg");

async function main() {
  const url = new URL(process.env.DATABASE_URL);
  const ca = fs.readFileSync(url.searchParams.get("sslrootcert"), "utf8");
  url.search = "";
  const pool = new Pool({ connectionString: url.toString(), ssl: { ca }, max: 3 });
  const asked = Array.from({ length: 20 }, (_, n) => pool.query("SELECT $1::int AS n", [n]));
  const answers = await Promise.all(asked);
  assert.deepStrictEqual(answers.map(({ rows }) => rows[0].n), Array.from({ length: 20 }, (_, n) => n));
  await pool.end();

  const plain = new Pool({ connectionString: url.toString() });
  await assert.rejects(plain.query("SELECT 1"), { code: "28000" });
  await plain.end();
  console.log("node-postgres over TLS");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
