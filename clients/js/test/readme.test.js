// What the README shows compiles, and what it names is declared.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { Wirefall } from "../wirefall.js";

const read = name => readFileSync(new URL(`../${name}`, import.meta.url), "utf8");
const blocks = [...read("README.md").matchAll(/^```js\n(.*?)^```/gms)].map(([, code]) => code);

test("every block is a module", t => {
  assert.ok(blocks.length > 0);
  const folder = mkdtempSync(join(tmpdir(), "wirefall-"));
  t.after(() => rmSync(folder, { recursive: true }));
  for (const [index, code] of blocks.entries()) {
    const file = join(folder, `${index}.mjs`);
    writeFileSync(file, code);
    execFileSync(process.execPath, ["--check", file]);
  }
});

test("every option that is shown is declared", () => {
  const declared = read("wirefall.d.ts");
  const options = blocks.flatMap(code => [...code.matchAll(/^ {2}(\w+): /gm)].map(([, name]) => name));
  assert.ok(options.length > 3);
  for (const option of options) assert.match(declared, new RegExp(`^  ${option}\\?:`, "m"), option);
});

test("what the class has is declared, and the reverse", () => {
  const declared = /export class Wirefall .*?^}/ms.exec(read("wirefall.d.ts"))[0];
  const names = [...declared.matchAll(/^ {2}(?:readonly )?(\w+)[(:]/gm)].map(([, name]) => name).sort();
  assert.deepEqual(Object.getOwnPropertyNames(Wirefall.prototype).sort(), names);
});
