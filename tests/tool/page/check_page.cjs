// Opens a page of `cofre bench image --html` in Chromium, as people with and without eyes, mice and large screens would.
//
//   node check_page.cjs PAGE REPORT.json
//
// Prints what is wrong, one line each; exits with 1 then. playwright-core and axe-core are found in NODE_PATH.
'use strict';
const fs = require('fs');
const {chromium} = require('playwright-core');
const axe = require('axe-core');

const CHROMIUM = process.env.COFRE_TEST_CHROMIUM || '/usr/bin/chromium';
const FLAGS = ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update',
               '--disable-sync'];
const VIEWS = [
  {name: 'light', colorScheme: 'light', viewport: {width: 1280, height: 900}},
  {name: 'dark', colorScheme: 'dark', viewport: {width: 1280, height: 900}},
  {name: 'phone, light', colorScheme: 'light', viewport: {width: 360, height: 740}},
  {name: 'phone, dark', colorScheme: 'dark', viewport: {width: 360, height: 740}},
];

const [pagePath, reportPath] = process.argv.slice(2);
const report = JSON.parse(fs.readFileSync(reportPath, 'utf8'));
const wrong = [];
const operations = [...new Set(report.results.map(result => result.operation))];
const charts = [...operations, 'encrypt', 'decrypt'].map(name => `chart-${name}`);

function expect(view, holds, sentence) {
  if (!holds) wrong.push(`${view.name}: ${sentence}`);
}

// What the tables shall hold, in rows of exact figures; null where there is none.
function expectedRows(chart) {
  const name = chart.replace('chart-', '');
  if (operations.includes(name)) {
    const results = report.results.filter(result => result.operation === name);
    const clusters = [...new Set(results.map(result => result['cluster-size']))];
    return clusters.map(cluster => results.filter(result => result['cluster-size'] === cluster).map(result => {
      const value = name.startsWith('rand') ? result['requests-per-second'] : result['bytes-per-second'] / 1e9;
      return value === undefined || Number.isNaN(value) ? null : value;
    }));
  }
  return report.crypto.runs.filter(run => run.direction === name).map(run => {
    const limits = report.crypto.limits.filter(limit => run.cipher.startsWith(limit.cipher)).map(limit => limit['bytes-per-second']);
    return [...(limits.length ? [Math.max(...limits)] : []), ...run.speeds.map(speed => speed['bytes-per-second'])];
  });
}

// In the page.
function readTable(id) {
  return [...document.querySelectorAll(`#${id}-table tbody tr`)].map(row => [...row.querySelectorAll('td')].map(cell => {
    const data = cell.querySelector('data');
    return data ? {value: Number(data.value), text: data.textContent} : null;
  }));
}
function countPaint(id) {
  const canvas = document.getElementById(id), copy = new OffscreenCanvas(canvas.width, canvas.height);
  const pen = copy.getContext('2d', {willReadFrequently: true});
  pen.drawImage(canvas, 0, 0);
  const pixels = pen.getImageData(0, 0, copy.width, copy.height).data;
  const colors = new Map();
  for (let i = 0; i < pixels.length; i += 4)
    if (pixels[i + 3] === 255) {
      const key = (pixels[i] << 16) | (pixels[i + 1] << 8) | pixels[i + 2];
      colors.set(key, (colors.get(key) || 0) + 1);
    }
  return [...colors].filter(([, count]) => count > 20).map(([color]) => color).sort();
}

async function checkTables(view, page) {
  for (const chart of charts) {
    const rows = await page.evaluate(readTable, chart), expected = expectedRows(chart);
    const values = rows.map(row => row.map(cell => cell && cell.value));
    expect(view, JSON.stringify(values) === JSON.stringify(expected),
           `the table of ${chart} has ${JSON.stringify(values)} and not ${JSON.stringify(expected)}`);
    for (const cell of rows.flat().filter(cell => cell !== null)) {
      const shown = Number(cell.text.replaceAll(',', ''));
      const inUnit = cell.value > 1e7 ? cell.value / 1e9 : cell.value;
      expect(view, Math.abs(shown - inUnit) <= (cell.text.includes('.') ? 0.0051 : 0.51), `${chart} shows ${cell.text} for ${cell.value}`);
    }
  }
}

async function checkKeyboard(view, page) {
  const reached = new Set();
  for (let i = 0; i < 12 * charts.length && reached.size < charts.length; ++i) {
    await page.keyboard.press('Tab');
    const id = await page.evaluate(() => document.activeElement.id);
    if (!charts.includes(id)) continue;
    reached.add(id);
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    expect(view, outline !== 'none', `the focus does not show on ${id}`);
    const heard = [];
    for (const key of ['ArrowRight', 'ArrowRight', 'ArrowDown']) {
      await page.keyboard.press(key);
      heard.push(await page.textContent('#spoken'));
    }
    expect(view, heard.every(text => /: (?:[\d.,]+|too short to tell) (?:GB\/s|requests\/s)$/.test(text)), `${id} says ${JSON.stringify(heard)}`);
    const points = expectedRows(id), ways = 1 + (points.length > 1) + (points[0].length > 1);
    expect(view, new Set(heard).size === ways, `the arrow keys go nowhere on ${id}: ${JSON.stringify(heard)}`);
  }
  for (const chart of charts) expect(view, reached.has(chart), `the keyboard does not reach ${chart}`);
}

async function checkAxe(view, page) {
  await page.evaluate(() => document.querySelectorAll('details').forEach(details => { details.open = true; }));
  await page.evaluate(axe.source);
  const found = await page.evaluate(() => window.axe.run(document, {resultTypes: ['violations']}));
  expect(view, found.passes.length > 10, 'axe-core looked at nothing');
  for (const violation of found.violations)
    wrong.push(`${view.name}: axe-core: ${violation.id}: ${violation.help}: ${violation.nodes.map(node => node.target).join(' ')}`);
}

async function checkView(browser, view) {
  const context = await browser.newContext({colorScheme: view.colorScheme, viewport: view.viewport});
  const page = await context.newPage();
  const own = 'file://' + pagePath;
  page.on('console', message => {
    if (['error', 'warning'].includes(message.type())) wrong.push(`${view.name}: the console says: ${message.text()}`);
  });
  page.on('pageerror', error => wrong.push(`${view.name}: the script failed: ${error.message}`));
  page.on('request', request => {
    if (request.url() !== own && !request.url().startsWith('data:')) wrong.push(`${view.name}: asks for ${request.url()}`);
  });
  await page.goto(own);
  const paint = {};
  for (const chart of charts) {
    paint[chart] = await page.evaluate(countPaint, chart);
    expect(view, paint[chart].length >= 3, `${chart} is blank, or nearly: ${paint[chart].length} colors`);
    const label = await page.evaluate(id => document.getElementById(document.getElementById(id).getAttribute('aria-labelledby'))?.textContent, chart);
    expect(view, Boolean(label), `${chart} has no name`);
  }
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  expect(view, overflow <= 0, `the page is ${overflow} pixels wider than the screen`);
  await checkTables(view, page);
  await checkKeyboard(view, page);
  await checkAxe(view, page);
  const background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  // A reader who changes the scheme sees new colors at once, in the charts too.
  await page.emulateMedia({colorScheme: view.colorScheme === 'dark' ? 'light' : 'dark'});
  await page.evaluate(() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done))));
  for (const chart of charts)
    expect(view, JSON.stringify(await page.evaluate(countPaint, chart)) !== JSON.stringify(paint[chart]),
           `${chart} keeps its colors when the color scheme changes`);
  await context.close();
  return background;
}

(async () => {
  const browser = await chromium.launch({executablePath: CHROMIUM, headless: true, args: FLAGS});
  const backgrounds = [];
  try {
    for (const view of VIEWS) backgrounds.push(await checkView(browser, view));
  } finally {
    await browser.close();
  }
  if (new Set(backgrounds).size !== 2) wrong.push(`light and dark have the backgrounds ${backgrounds.join(', ')}`);
  for (const line of wrong) console.log(line);
  process.exitCode = wrong.length ? 1 : 0;
})();
