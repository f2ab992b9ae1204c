// What node-postgres sends: a pool, parameters, prepared statements, transactions.
const assert = require("node:assert");
const { createRequire } = require("node:module");
// Installed where scripts/test.sh puts it.
const { Pool, Client } = createRequire(process.env.NODE_CLIENTS + "/")("pg");

async function main() {
  const pool = new Pool({ connectionString: process.env.DATABASE_URL, max: 4 });
  await pool.query(`CREATE TABLE shops (id serial PRIMARY KEY, name text NOT NULL UNIQUE,
    open boolean DEFAULT true, since timestamptz, facts jsonb, logo bytea, rating float8)`);
  const since = new Date("2020-02-29T10:00:00.125Z");
  const values = ["Café", since, { tags: ["a", "b"], n: 1 }, Buffer.from([0, 1, 255]), 4.5];
  const insert =
    "INSERT INTO shops (name, since, facts, logo, rating) VALUES ($1, $2, $3, $4, $5) RETURNING *";
  const { rows, rowCount } = await pool.query(insert, values);
  assert.strictEqual(rowCount, 1);
  assert.deepStrictEqual(rows[0], { id: 1, name: "Café", open: true, since,
    facts: { tags: ["a", "b"], n: 1 }, logo: Buffer.from([0, 1, 255]), rating: 4.5 });
  await assert.rejects(pool.query(insert, values), { code: "23505", constraint: "shops_name_key" });
  await assert.rejects(pool.query("SELECT * FROM no_shops"), { code: "42P01" });

  const named = { name: "by-id", text: "SELECT name FROM shops WHERE id = $1" };
  const answers = await Promise.all(Array.from({ length: 40 }, (_, n) =>
    pool.query({ ...named, values: [n % 2] })));
  assert.deepStrictEqual(answers.map((answer) => answer.rows.length),
    Array.from({ length: 40 }, (_, n) => n % 2));

  const client = await pool.connect();
  await client.query("BEGIN");
  await client.query("UPDATE shops SET rating = rating + $1 WHERE id = $2", [1, 1]);
  await client.query("ROLLBACK");
  const both = await client.query("SELECT rating FROM shops; SELECT count(*) FROM shops");
  assert.deepStrictEqual(both.map((one) => one.rows), [[{ rating: 4.5 }], [{ count: "1" }]]);
  const found = await client.query("SELECT id FROM shops WHERE id = ANY($1::int[])", [[1, 2, 3]]);
  assert.deepStrictEqual(found.rows, [{ id: 1 }]);
  client.release();
  await pool.end();

  const single = new Client({ connectionString: process.env.DATABASE_URL });
  await single.connect();
  await single.query("DROP TABLE shops");
  await single.end();
  console.log("node-postgres", createRequire(process.env.NODE_CLIENTS + "/")("pg/package.json").version);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
