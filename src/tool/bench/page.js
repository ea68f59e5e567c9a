// The page of `cofre bench image`: tables, legends and charts from the report that stands in it.
'use strict';
(() => {
  const report = JSON.parse(document.getElementById('report').textContent);

  const OPERATIONS = {
    convert: ['Convert a raw image into a new one', 'The whole program: its start, the opening of the image, every byte copied.'],
    read: ['Read a full image', 'From start to end, 1 MiB a request, 16 in flight.'],
    write: ['Write a new image', 'From start to end, 1 MiB a request, 16 in flight. Clusters are allocated on the way.'],
    randread: ['Scattered reads', '4 KiB a request, 16 in flight, all over a full image.'],
    randwrite: ['Scattered writes', '4 KiB a request, 16 in flight, over what is in a full image.'],
  };
  const ENCRYPTIONS = {none: 'plain', aes: 'aes (legacy)', luks: 'LUKS'};
  const MARKS = {none: 'circle', aes: 'triangle', luks: 'rect'};
  const GIGA = 1e9;

  // ---- words and figures

  const color = name => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim();
  const distinct = values => [...new Set(values)];
  const scattered = operation => operation.startsWith('rand');
  const unitOf = operation => scattered(operation) ? 'requests/s' : 'GB/s';

  function sizeText(bytes) {
    if (bytes >= 1 << 30) return `${bytes / (1 << 30)} GiB`;
    if (bytes >= 1 << 20) return `${bytes / (1 << 20)} MiB`;
    return bytes >= 1024 ? `${bytes / 1024} KiB` : `${bytes} B`;
  }
  // In the operation's unit, as it is drawn; null where too little was moved to tell.
  function valueOf(result) {
    const value = scattered(result.operation) ? result['requests-per-second'] : result['bytes-per-second'] / GIGA;
    return Number.isFinite(value) ? value : null;
  }
  function valueText(value, unit) {
    if (value === null) return 'too short to tell';
    return unit === 'GB/s' ? value.toFixed(2) : Math.round(value).toLocaleString('en-US');
  }
  const percent = part => `${Math.round(100 * part)} %`;
  const seriesName = (encryption, program) => `${ENCRYPTIONS[encryption]}, ${program}`;

  function find(operation, encryption, cluster, program) {
    return report.results.find(r => r.operation === operation && r.encryption === encryption &&
                                    r['cluster-size'] === cluster && r.program === program);
  }

  const clusters = distinct(report.results.map(r => r['cluster-size']));
  const encryptions = distinct(report.results.map(r => r.encryption));
  const operations = distinct(report.results.map(r => r.operation));

  // ---- pieces of the document

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }
  // A figure with its exact value behind the shown one.
  function figureCell(raw, shown) {
    return element('td', {}, raw === null ? shown : element('data', {value: String(raw)}, shown));
  }
  function table(id, headings, rows) {
    const head = element('thead', {}, element('tr', {}, ...headings.map(text => element('th', {scope: 'col'}, text))));
    const body = element('tbody', {}, ...rows.map(([first, ...cells]) =>
      element('tr', {}, element('th', {scope: 'row'}, first), ...cells)));
    return element('table', {id}, head, body);
  }
  function svg(inner) {
    const made = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    made.setAttribute('width', '36');
    made.setAttribute('height', '14');
    made.setAttribute('aria-hidden', 'true');
    made.innerHTML = inner;
    return made;
  }
  function lineKey(series) {
    const paint = `stroke="var(--${series.encryption})" stroke-width="2"`;
    const fill = series.dashed ? 'var(--card)' : `var(--${series.encryption})`;
    const mark = {
      circle: `<circle cx="18" cy="7" r="4" ${paint} fill="${fill}"/>`,
      triangle: `<path d="M18 2l5 9h-10z" ${paint} fill="${fill}"/>`,
      rect: `<rect x="14" y="3" width="8" height="8" ${paint} fill="${fill}"/>`,
    }[MARKS[series.encryption]];
    return svg(`<path d="M0 7h36" ${paint}${series.dashed ? ' stroke-dasharray="6 4"' : ''}/>${mark}`);
  }
  function barKey(series) {
    if (series.limit) return svg('<path d="M2 7h32" stroke="var(--limit)" stroke-width="3"/>');
    const slant = series.hatch === 'up' ? 'M0 14l14-14M8 14l14-14M16 14l14-14M24 14l12-12' : 'M0 0l14 14M8 0l14 14M16 0l14 14M24 0l12 12';
    return svg(`<rect x="1" y="1" width="34" height="12" fill="var(--${series.hatch ? 'card' : series.color})" stroke="var(--${series.edge})" stroke-width="2"/>` +
               (series.hatch ? `<path d="${slant}" stroke="var(--${series.color})" stroke-width="2"/>` : ''));
  }
  function card({id, title, note, series, key, headings, rows}) {
    const canvas = element('canvas', {id, tabindex: '0', role: 'img', 'aria-labelledby': `${id}-title`,
                                      'aria-describedby': `${id}-note`});
    const figure = element('figure', {},
      element('figcaption', {}, element('h3', {id: `${id}-title`}, title), element('p', {id: `${id}-note`}, note)),
      element('ul', {class: 'legend'}, ...series.map(one => element('li', {}, key(one), one.name))),
      element('div', {class: 'canvas'}, canvas),
      element('details', {}, element('summary', {}, `Table: ${title}`),
        element('div', {class: 'scroll', tabindex: '0', role: 'region', 'aria-label': `Table: ${title}`},
          table(`${id}-table`, headings, rows))));
    return {figure, canvas};
  }

  // ---- charts

  const drawings = [];  // functions that draw a chart anew, in the colors of now

  function axes(unit, title) {
    const text = color('faint');
    const label = words => ({display: true, text: words, color: text});
    return {
      x: {title: label(title), ticks: {color: text}, grid: {display: false}, border: {color: color('grid')}},
      y: {title: label(unit), beginAtZero: true, ticks: {color: text}, grid: {color: color('grid'), borderColor: color('grid')}},
    };
  }
  function options(unit, xTitle, labelOf) {
    return {
      animation: false, responsive: true, maintainAspectRatio: false,
      interaction: {mode: 'nearest', intersect: false},
      scales: axes(unit, xTitle),
      plugins: {
        legend: {display: false},
        tooltip: {
          backgroundColor: color('text'), titleColor: color('page'), bodyColor: color('page'), displayColors: false,
          callbacks: {label: item => labelOf(item.dataset, item.dataIndex)},
        },
      },
    };
  }
  // The arrow keys go along a series and from one to the next; where they stand is shown and read out.
  function walkable(canvas, chartOf, words) {
    let series = 0, point = -1;
    canvas.addEventListener('keydown', event => {
      const step = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
      if (!step) return;
      event.preventDefault();
      const chart = chartOf(), sets = chart.data.datasets;
      series = (series + step[0] + sets.length) % sets.length;
      point = Math.min(Math.max(point + step[1], 0), sets[series].data.length - 1);
      const active = [{datasetIndex: series, index: point}];
      chart.setActiveElements(active);
      chart.tooltip.setActiveElements(active, {x: 0, y: 0});
      chart.update('none');
      document.getElementById('spoken').textContent = words(sets[series], point);
    });
    canvas.addEventListener('blur', () => {
      const chart = chartOf();
      chart.setActiveElements([]);
      chart.tooltip.setActiveElements([], {x: 0, y: 0});
      chart.update('none');
      point = -1;
    });
  }
  // `configure` gives a chart's configuration in the colors of now.
  function draw(canvas, configure, words) {
    let chart = null;
    drawings.push(() => {
      if (chart) chart.destroy();
      chart = new Chart(canvas, configure());
    });
    walkable(canvas, () => chart, words);
  }

  function speedCard(operation) {
    const unit = unitOf(operation), [title, note] = OPERATIONS[operation];
    const programs = distinct(report.results.filter(r => r.operation === operation).map(r => r.program));
    const series = encryptions.flatMap(encryption => programs
      .filter(program => find(operation, encryption, clusters[0], program))
      .map(program => ({
        encryption, program, name: seriesName(encryption, program), dashed: program !== 'cofre',
        values: clusters.map(cluster => valueOf(find(operation, encryption, cluster, program))),
      })));
    const rows = clusters.map((cluster, i) => [sizeText(cluster), ...series.map(one =>
      figureCell(one.values[i], valueText(one.values[i], unit)))]);
    const {figure, canvas} = card({id: `chart-${operation}`, title: `${title}, ${unit}`, note, series, key: lineKey,
                                   headings: ['Cluster size', ...series.map(one => one.name)], rows});
    const words = (set, i) => `${set.label}, ${sizeText(clusters[i])}: ${valueText(set.data[i], unit)} ${unit}`;
    draw(canvas, () => ({
      type: 'line',
      data: {labels: clusters.map(sizeText), datasets: series.map(one => ({
        label: one.name, data: one.values, borderColor: color(one.encryption), borderWidth: 2, borderDash: one.dashed ? [6, 4] : [],
        pointStyle: MARKS[one.encryption], pointRadius: 5, pointHoverRadius: 8, pointBorderWidth: 2,
        pointBackgroundColor: color(one.dashed ? 'card' : one.encryption), pointBorderColor: color(one.encryption),
      }))},
      options: options(unit, 'cluster size', (set, i) => `${set.label}: ${valueText(set.data[i], unit)} ${unit}`),
    }), words);
    return figure;
  }

  function hatch(name, direction) {
    const tile = document.createElement('canvas');
    tile.width = tile.height = 8;
    const pen = tile.getContext('2d');
    pen.strokeStyle = color(name);
    pen.lineWidth = 2;
    for (const shift of [-8, 0, 8]) {
      pen.moveTo(shift, direction === 'up' ? 8 : 0);
      pen.lineTo(shift + 8, direction === 'up' ? 0 : 8);
    }
    pen.stroke();
    return pen.createPattern(tile, 'repeat');
  }

  const COLORS_OF_KERNELS = 4;
  // Bars: the kernels in one color that gets weaker, the libraries hatched, and over them the limit.
  function cryptoSeries(runs) {
    const makers = distinct(runs.flatMap(run => run.speeds.map(speed => speed.by)));
    const kernels = makers.filter(by => !by.includes(' '));
    let libraries = 0;
    const series = makers.map(by => {
      const library = !kernels.includes(by);
      if (library) ++libraries;
      const place = COLORS_OF_KERNELS - kernels.indexOf(by);  // the fastest comes first
      const name = library ? `library-${Math.min(libraries, 2)}` : `kernel-${Math.max(1, place)}`;
      return {name: by, color: name, edge: library ? name : `kernel-${COLORS_OF_KERNELS}`,
              hatch: library ? (libraries === 1 ? 'up' : 'down') : null,
              values: runs.map(run => (run.speeds.find(speed => speed.by === by) || {})['bytes-per-second'] ?? null)};
    });
    const limits = runs.map(run => Math.max(...report.crypto.limits.filter(limit => run.cipher.startsWith(limit.cipher))
                                                                  .map(limit => limit['bytes-per-second'])));
    if (limits.every(Number.isFinite)) series.unshift({name: 'limit', limit: true, color: 'limit', values: limits});
    return series;
  }
  function cryptoDataset(one) {
    const values = one.values.map(value => value === null ? null : value / GIGA);
    if (!one.limit)
      return {label: one.name, data: values, order: 1, borderWidth: 1, borderColor: color(one.edge),
              backgroundColor: one.hatch ? hatch(one.color, one.hatch) : color(one.color)};
    const reach = context => context.chart.chartArea ? 0.45 * context.chart.chartArea.width / values.length : 20;
    return {type: 'line', label: one.name, data: values, order: 0, showLine: false, pointStyle: 'line', pointRadius: reach,
            pointHoverRadius: reach, borderColor: color('limit'), pointBorderWidth: 3, pointHoverBorderWidth: 3};
  }
  function cryptoCard(direction) {
    const runs = report.crypto.runs.filter(run => run.direction === direction);
    const names = runs.map(run => run.cipher.replace('-plain64', ''));
    const series = cryptoSeries(runs);
    const shown = value => valueText(value === null ? null : value / GIGA, 'GB/s');
    const rows = runs.map((run, i) => [names[i], ...series.map(one => figureCell(one.values[i], shown(one.values[i])))]);
    const title = `${direction === 'encrypt' ? 'Encryption' : 'Decryption'}, GB/s`;
    const note = 'LUKS images use aes-256-xts by default, legacy ones aes-128-cbc. Bars stand in the order of the legend.';
    const {figure, canvas} = card({id: `chart-${direction}`, title, note, series, key: barKey,
                                   headings: ['Cipher', ...series.map(one => one.name)], rows});
    const words = (set, i) => `${set.label}, ${names[i]}: ${valueText(set.data[i], 'GB/s')} GB/s`;
    draw(canvas, () => ({
      type: 'bar',
      data: {labels: names.map(name => name.split(/-(?=[a-z]+$)/)), datasets: series.map(cryptoDataset)},
      options: options('GB/s', 'cipher', (set, i) => `${set.label}: ${valueText(set.data[i], 'GB/s')} GB/s`),
    }), words);
    return figure;
  }

  // ---- the answer

  // What cofre does with one encryption at one operation, over the cluster sizes.
  function glanceRow(operation, encryption) {
    const unit = unitOf(operation);
    const points = clusters.map(cluster => ({cluster, value: valueOf(find(operation, encryption, cluster, 'cofre')),
                                             plain: find(operation, 'none', cluster, 'cofre')}));
    const known = points.filter(point => point.value !== null).sort((a, b) => a.value - b.value);
    if (known.length === 0) return null;
    const slow = known[0], fast = known[known.length - 1];
    const short = unit === 'GB/s' ? ' GB/s' : '/s';
    const place = point => `${valueText(point.value, unit)}${short} at ${sizeText(point.cluster)}`;
    const shares = known.filter(point => point.plain && valueOf(point.plain)).map(point => point.value / valueOf(point.plain));
    const beside = shares.length === 0 || encryption === 'none' ? '–'
      : `${Math.round(100 * Math.min(...shares))}–${percent(Math.max(...shares))}`;
    return [`${operation}, ${ENCRYPTIONS[encryption]}`, percent(slow.value / fast.value), beside, place(fast), place(slow)];
  }
  // How far the rounds of one figure lie apart, in the middle of all figures.
  function noiseText() {
    if (report.rounds < 2) return ' With a single round, small differences mean nothing.';
    const spreads = report.results.filter(result => result.program === 'cofre').map(result =>
      (Math.max(...result.seconds) - Math.min(...result.seconds)) / Math.min(...result.seconds)).sort((a, b) => a - b);
    return ` The slowest round of a figure took ${percent(spreads[spreads.length >> 1])} longer than its fastest (the median of all` +
           ' figures): smaller differences mean nothing.';
  }
  function fillGlance() {
    document.getElementById('glance-note').textContent =
      'Of cofre: what the slowest cluster size leaves of the speed of the fastest, how an encrypted image compares with a plain one of the same cluster size, and where it is fastest and slowest.' +
      noiseText();
    const rows = operations.flatMap(operation => encryptions.map(encryption => glanceRow(operation, encryption)))
      .filter(row => row !== null)
      .map(([first, ...cells]) => [first, ...cells.map(text => element('td', {}, text))]);
    document.getElementById('glance').replaceWith(table('glance',
      ['Operation', 'Slowest ÷ fastest', 'Encrypted ÷ plain', 'Fastest', 'Slowest'], rows));
  }

  // ---- how it was measured

  function fillMachine() {
    const {machine, programs} = report;
    document.getElementById('setting').textContent =
      `${machine.processor}, ${machine.cpus} CPUs. Images of ${sizeText(report.size)}, ` +
      (report.rounds === 1 ? 'one round.' : `medians of ${report.rounds} interleaved rounds.`);
    const entries = [['Processor', machine.processor], ['CPUs', machine.cpus], ['System', machine.system],
                     ['cofre', `${programs.cofre}, AES kernel ${programs['aes-kernel']}`]];
    if (programs['qemu-img']) entries.push(['QEMU', programs['qemu-img']]);
    entries.push(['Images', `${sizeText(report.size)} in ${report.directory} (${report['file-system']})`], ['Rounds', report.rounds]);
    document.getElementById('machine').append(...entries.flatMap(([name, value]) =>
      [element('dt', {}, name), element('dd', {}, String(value))]));
  }
  function fillMethod() {
    const lines = [
      'All images are qcow2 with the defaults of the format but for what is varied here, made by cofre, and hold bytes that do not compress.',
      'Every round does everything once, one after the other, so that a slow moment of the machine meets all; the median of the rounds is shown.',
      'Nobody waits for the disk: bytes go to and from the host’s page cache, and flushes are left out. On a slow disk all of this is nearer together.',
      'Cofre uses all CPUs. Deriving the key from the passphrase is made as short as LUKS permits.',
      'Scattered requests come in a fixed order in which each is far from those before it and no place is met twice.',
    ];
    if (report.programs['qemu-img']) lines.push(
      'QEMU works on the same images. It converts with qemu-img convert -n -W -m 16 -t unsafe, and like cofre as a whole program into an image that is there and empty.',
      'QEMU reads and writes plain images with qemu-img bench: the same requests in the same order, 16 in flight.',
      'qemu-img bench takes no secret and so opens no encrypted image. QEMU reads and writes those through qemu-io: the same requests in the same order, asynchronous, at most 64 in flight. What qemu-io spends on its commands, measured with the same commands on a null device, is taken off; where that is most of the time, there is no figure.');
    document.getElementById('method').append(...lines.map(text => element('li', {}, text)));
  }

  // ---- all of it

  function drawAll() {
    Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
    for (const drawing of drawings) drawing();
  }
  fillGlance();
  fillMachine();
  fillMethod();
  const charts = element('div', {class: 'cards'}, ...operations.map(speedCard));
  document.getElementById('charts').append(charts);
  if (report.crypto) {
    document.getElementById('crypto').hidden = false;
    document.getElementById('crypto-charts').append(element('div', {class: 'cards'}, ...['encrypt', 'decrypt'].map(cryptoCard)));
  }
  drawAll();
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', drawAll);
})();
