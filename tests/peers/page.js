// Chromium looks at a page of Wirefall, or at a page of someone else that reads a stream.
//
// usage: page.js CHROMIUM page URL ROWS          waits for ROWS records, prints what is seen as JSON
//        page.js CHROMIUM watch URL              prints what the page says, whenever it says something else
//        page.js CHROMIUM keyed URL ROWS KEYS LAST   waits for ROWS records, asks for these keys alone, says
//            `narrow`, and prints what is shown once the record LAST has come
//        page.js CHROMIUM busy URL               counts the frames that are drawn while records come
//        page.js CHROMIUM secrets URL SECRET …   gives the page these secrets, of which the last is right
//        page.js CHROMIUM foreign STREAM         serves a page of its own that dials STREAM
//        page.js CHROMIUM app PORT URL OPTIONS   serves a page at PORT that subscribes to URL with the
//            client of its server, and says how it fares; reads `sleep` and `wake` from its input
//        page.js CHROMIUM dashboard PORT FOLDER SERVER   serves FOLDER at PORT, looks at it with SERVER
//            as its stream's, and says what it shows; reads `reload` from its input
"use strict";
const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");
const readline = require("node:readline");
const { chromium } = require("playwright-core");

const [executablePath, verb, ...words] = process.argv.slice(2);
const args = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];
const PATIENCE_MS = 30000;
const GLANCE_MS = 50;

const patiently = { timeout: PATIENCE_MS };
const glance = () => new Promise(done => setTimeout(done, GLANCE_MS));
const texts = locator => locator.allTextContents();
const seen = what => console.log("seen " + JSON.stringify(what));

const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css" };

/** A server of files: `content` gives that of a path. */
async function serve(port, content) {
  const server = http.createServer(({ url }, answer) => {
    const name = new URL(url, "http://localhost").pathname.replace(/\/$/, "/index.html");
    answer.setHeader("content-type", TYPES[path.extname(name)] ?? "application/octet-stream");
    answer.end(content(name));
  });
  await new Promise(done => server.listen(Number(port), "127.0.0.1", done));
  return { server, url: `http://127.0.0.1:${server.address().port}/` };
}

/** Prints `told` and what `look` finds, whenever it is something else. */
async function tell(look) {
  for (let before; ; await glance()) {
    const told = JSON.stringify(await look());
    if (told !== before) console.log("told " + told);
    before = told;
  }
}

const verbs = {
  async page(page, url, rows) {
    const outside = [], errors = [];
    page.on("request", request => {
      if (new URL(request.url()).host !== new URL(url).host && !request.url().startsWith("data:")) {
        outside.push(request.url());
      }
    });
    page.on("console", message => { if (message.type() === "error") errors.push(message.text()); });
    page.on("pageerror", error => errors.push(String(error)));
    await page.goto(url);
    console.log("open");
    const record = page.locator("#records tr");
    await page.waitForFunction(n => document.querySelectorAll("#records tr").length >= n, Number(rows), patiently);
    const colours = {};
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      colours[colorScheme] = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    }
    await page.getByRole("button", { name: "Pause" }).click();
    const columns = await texts(page.locator("#head th"));
    const newest = await texts(record.first().locator("td"));
    const state = await page.getByRole("status").first().textContent();
    await page.getByLabel("Only with this text").fill("\"n\":3");
    await page.waitForFunction(() => document.querySelectorAll("#records tr").length === 1, null, patiently);
    const only = await texts(record.first().locator("td"));
    await page.waitForFunction(() => document.querySelector("#subscribers").textContent === "1", null, patiently);
    seen({ title: await page.title(), columns, newest, only, state, colours, outside, errors });
  },

  async watch(page, url) {
    await page.goto(url);
    await tell(() => page.evaluate(() => {
      const all = selector => [...document.querySelectorAll(selector)].map(element => element.textContent);
      return { state: all("#state")[0], lost: all("#lost")[0], gaps: all("tr.gap td:last-child"), rows: all("#records tr").length };
    }));
  },

  async keyed(page, url, rows, keys, last) {
    await page.goto(url);
    const shown = () => texts(page.locator("#records td:nth-child(2)"));
    await page.waitForFunction(n => document.querySelectorAll("#records tr").length === n, Number(rows), patiently);
    const all = await shown();
    await page.getByLabel("Only these keys").fill(keys);
    await page.keyboard.press("Enter");
    await page.waitForFunction(n => {
      const count = document.querySelectorAll("#records tr").length;
      return 0 < count && count < n;
    }, Number(rows), patiently);
    console.log("narrow");
    const newest = page.locator("#records tr:first-child td:nth-child(2)");
    await newest.filter({ hasText: new RegExp(`^${last}$`) }).waitFor(patiently);
    seen({ all, only: await shown() });
  },

  async busy(page, url) {
    await page.goto(url);
    const count = () => page.evaluate(() => Number(document.querySelector("#count").textContent.replaceAll(",", "")));
    while (await count() === 0) await glance();
    const before = await count();
    const frames = await page.evaluate(() => new Promise(done => {
      let frames = 0;
      const until = performance.now() + 3000;
      const next = now => { frames += 1; if (now < until) requestAnimationFrame(next); else done(frames); };
      requestAnimationFrame(next);
    }));
    await page.waitForFunction(n => Number(document.querySelector("#count").textContent.replaceAll(",", "")) > n, before, patiently);
    const records = await count() - before;
    const rows = await page.locator("#records tr").count();
    seen({ frames, records, rows, state: await page.locator("#state").textContent() });
  },

  async secrets(page, url, ...secrets) {
    const states = [];
    const see = async state => {
      await page.locator("#state", { hasText: state }).waitFor(patiently);
      states.push(await page.locator("#state").textContent());
    };
    await page.goto(url);
    await see("needed");
    for (const secret of secrets) {
      await page.getByLabel("This stream needs a credential").fill(secret);
      await page.keyboard.press("Enter");
      await see(secret === secrets.at(-1) ? "live" : "refused");
    }
    await page.waitForFunction(() => document.querySelectorAll("#records tr").length > 0, null, patiently);
    const stored = await page.evaluate(() => JSON.stringify([localStorage, sessionStorage, document.cookie, location.href]));
    const field = await page.locator("#secret").inputValue();
    const isKept = secrets.some(secret => (stored + field).includes(secret));
    seen({ states, isKept });
  },

  async foreign(page, stream) {
    const { server, url } = await serve(0, () => "<!doctype html><title>elsewhere</title>");
    await page.goto(url);
    const what = await page.evaluate(stream => new Promise(done => {
      const socket = new WebSocket(stream);
      socket.onopen = () => done("open");
      socket.onerror = () => done("refused");
    }), stream);
    server.close();
    seen(what);
  },

  async app(page, port, url, options = "{}") {
    const script = new URL("/v1/wirefall.js", url.replace(/^ws/, "http")).href;
    const html = `<!doctype html><title>app</title><link rel="icon" href="data:,"><script type="module">
      import { Wirefall } from ${JSON.stringify(script)};
      const told = window.told =
        { state: "", next: null, count: 0, newest: [], wrong: [], gaps: [], resumed: [], errors: 0, error: null };
      const client = new Wirefall(${JSON.stringify(url)}, {
        ...${options},
        onrecord: ({ data }) => {
          const { n } = JSON.parse(data);
          if (told.next !== null && n !== told.next) told.wrong.push([told.next, n]);
          told.next = n + 1;
          told.count += 1;
          told.newest = [...told.newest, n].slice(-10);
        },
        ongap: ({ lost }) => { told.gaps.push(lost); told.next = null; },
        onstate: ({ state }) => {
          told.state = state;
          if (state === "open") told.resumed.push(client.hello.resumed);
        },
        onerror: ({ code, message }) => { told.errors += 1; told.error = { code, message }; },
      });
    </script>`;
    const { url: own } = await serve(port, () => html);
    await page.goto(own);
    const devtools = await page.context().newCDPSession(page);
    await devtools.send("Debugger.enable");
    let isAsleep = false;
    readline.createInterface({ input: process.stdin }).on("line", async line => {
      isAsleep = line === "sleep";
      // As on a machine that sleeps no script runs, and the clock goes on. (Chromium freezes only tabs
      // that are hidden, and without a head none is.)
      await devtools.send(isAsleep ? "Debugger.pause" : "Debugger.resume");
      const fired = page.evaluate(() => new Promise(done => setTimeout(() => done(true), 0)));
      const late = (async () => { for (let glances = 0; glances < 20; glances += 1) await glance(); return false; })();
      if (await Promise.race([fired, late]) !== isAsleep) console.log(line + " done");
    });
    // What is asleep answers nobody.
    await tell(() => isAsleep ? "asleep" : page.evaluate(() => window.told));
  },

  async dashboard(page, port, folder, stream) {
    const errors = [];
    page.on("pageerror", error => errors.push(String(error)));
    const { url } = await serve(port, name => fs.readFileSync(path.join(folder, name)));
    const own = `${url}?server=${new URL(stream).origin}`;
    await page.goto(own);
    let loads = 1;
    readline.createInterface({ input: process.stdin }).on("line", async () => {
      await page.reload();
      loads += 1;
    });
    await tell(async () => {
      const look = () => ({
        state: document.querySelector("#state").textContent,
        count: Number(document.querySelector("#count").textContent.replaceAll(",", "")),
        bars: document.querySelectorAll("#chart rect").length,
        lost: !document.querySelector("#lost").hidden,
      });
      // A page that is left in the middle of a look shows nothing.
      const before = loads;
      const shown = await page.evaluate(look).catch(() => ({}));
      return { ...(before === loads ? shown : {}), loads, errors };
    });
  },
};

(async () => {
  const browser = await chromium.launch({ executablePath, args });
  await verbs[verb](await browser.newPage(), ...words);
  await browser.close();
})().catch(error => { console.error(error); process.exit(1); });
