// Prints what AsyncAPI's own parser says against each of these files, and fails if it says anything.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [folder, ...paths] = process.argv.slice(2);
const { Parser } = createRequire(join(folder, "package.json"))("@asyncapi/parser");
for (const path of paths) {
  const { document, diagnostics } = await new Parser().parse(readFileSync(path, "utf-8"));
  // 3.0.0 is what most tools read; the parser would like the newest.
  const said = diagnostics.filter(({ code }) => code !== "asyncapi-latest-version");
  for (const { path: where, message } of said) console.log(path, where.join("."), message);
  if (!document || said.length) process.exitCode = 1;
}
