// Chromium looks at a page of Wirefall, or at a page of someone else that tries to read a stream.
//
// usage: page.js CHROMIUM page URL ROWS          waits for ROWS records, prints what is seen as JSON
//        page.js CHROMIUM foreign STREAM         serves a page of its own that dials STREAM
"use strict";
const http = require("node:http");
const { chromium } = require("playwright-core");

const [executablePath, verb, url, rows] = process.argv.slice(2);
const args = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];
const PATIENCE_MS = 30000;

async function own(page) {
  const outside = [];
  const errors = [];
  page.on("request", request => {
    if (new URL(request.url()).host !== new URL(url).host && !request.url().startsWith("data:")) {
      outside.push(request.url());
    }
  });
  page.on("console", message => { if (message.type() === "error") errors.push(message.text()); });
  page.on("pageerror", error => errors.push(String(error)));
  await page.goto(url);
  console.log("open");
  const enough = n => document.querySelectorAll("#records li").length >= n;
  await page.waitForFunction(enough, Number(rows), { timeout: PATIENCE_MS });
  const colours = {};
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    colours[colorScheme] = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  }
  const newest = await page.locator("#records li").first().textContent();
  const state = await page.locator("#state").textContent();
  return { title: await page.title(), newest, state, colours, outside, errors };
}

async function foreign(page) {
  const server = http.createServer((_, answer) => {
    answer.setHeader("content-type", "text/html");
    answer.end("<!doctype html><title>elsewhere</title>");
  });
  await new Promise(done => server.listen(0, "127.0.0.1", done));
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  const seen = await page.evaluate(stream => new Promise(done => {
    const socket = new WebSocket(stream);
    socket.onopen = () => done("open");
    socket.onerror = () => done("refused");
  }), url);
  server.close();
  return { seen };
}

(async () => {
  const browser = await chromium.launch({ executablePath, args });
  const page = await browser.newPage();
  const seen = verb === "page" ? await own(page) : await foreign(page);
  console.log("seen " + JSON.stringify(seen));
  await browser.close();
})().catch(error => { console.error(error); process.exit(1); });
